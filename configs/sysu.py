"""SYSU-MM01, SAAI unless a word names another system.

    python launch.py --config=configs/sysu.py:multishot --config.data.root=/data/SYSU-MM01 \
        --config.model.weights=resnet50-19c8e357.pth

Published (AIM): all-search single-shot 75.90 rank-1 / 77.03 mAP, multi-shot 82.86 / 82.39, indoor 83.20 / 88.01 and
90.73 / 91.30. Ours: not measured, the data set is given out on application.

Presets: singleshot, multishot, all, indoor choose what is reported (everything if none is named); released (default) or
paper; baseline is the paper's of Table 3; the words of docs/systems.md are other systems; validate trains on 296
identities and keeps the best checkpoint on the official 99.
"""

from configs import common


def get_config(argument: str | None = None):
    """The experiment with the words of the argument."""
    return common.experiment("sysu", argument, common.REPORTED)
