"""Ranks features of Market-1501, or with the word dukemtmc of DukeMTMC-reID, which LbA reports too.

    python launch.py --config=configs/market.py --mode=rank --features=FILE

Single-modality sets: there is nothing to train SAAI on, and nothing published of it.
"""

from configs import common


def duke(config) -> None:
    """DukeMTMC-reID, withdrawn by its authors, for those who have features of it."""
    config.dataset, config.data.root = "dukemtmc", "data/dukemtmc"


def change(config) -> None:
    """Ranked by cosine."""
    config.inference = "cosine"


def get_config(argument: str | None = None):
    """The experiment with the words of the argument."""
    return common.experiment("market1501", argument, {"dukemtmc": duke}, change)
