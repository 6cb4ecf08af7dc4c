"""Market-1501, or with the word dukemtmc DukeMTMC-reID: visible images alone, on which LbA and PCB train.

    python launch.py --config=configs/market.py --mode=rank --features=FILE
    python launch.py --config=configs/market.py:dukemtmc,lba --config.data.root=/data/DukeMTMC-reID \
        --config.model.weights=resnet50-19c8e357.pth

LbA's supplement (Table S2) has the published figures, docs/systems.md lists them. Ours: not measured. The supplement
states no recipe for visible images: LbA's own is taken, 288 x 144 pixels and SGD over 81 epochs.

Presets: lba, lba-baseline, pcb, pcb-lba (docs/systems.md); the other systems learn from two modalities and are refused.
validate holds a tenth of the training identities out.
"""

from configs import common


def duke(config) -> None:
    """DukeMTMC-reID, withdrawn by its authors, for those who have it or features of it."""
    config.dataset, config.data.root = "dukemtmc", "data/dukemtmc"


def change(config) -> None:
    """Ranked by cosine."""
    config.inference = "cosine"
    common.visible_alone(config)


def get_config(argument: str | None = None):
    """The experiment with the words of the argument."""
    return common.experiment("market1501", argument, {"dukemtmc": duke}, change)
