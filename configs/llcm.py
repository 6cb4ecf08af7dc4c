"""LLCM, SAAI unless a word names another system; SAAI's paper does not report it.

    python launch.py --config=configs/llcm.py --config.data.root=/data/LLCM --config.model.weights=resnet50-19c8e357.pth

Ours: not measured, the data set is given out on application. The recipe is the released one for SYSU-MM01.

Presets: released (default) or paper; baseline is the paper's of Table 3; the words of docs/systems.md are other
systems; validate holds a tenth of the training identities out.
"""

from configs import common


def get_config(argument: str | None = None):
    """The experiment with the words of the argument."""
    return common.experiment("llcm", argument)
