"""Ranks features of Market-1501, or with the word dukemtmc of DukeMTMC-reID, which LbA reports too.

    python launch.py --config=configs/market.py --mode=rank --features=FILE

Single-modality sets: there is nothing to train SAAI on, and nothing published of it.
"""

from configs import common


def duke(config) -> None:
    """DukeMTMC-reID, withdrawn by its authors, for those who have features of it."""
    config.dataset, config.data.root = "dukemtmc", "data/dukemtmc"


def get_config(argument: str | None = None):
    """The experiment with the presets of the argument."""
    config = common.get_config()
    config.dataset, config.data.root, config.inference = "market1501", "data/market1501", "cosine"
    common.apply(config, argument, {"dukemtmc": duke})
    return config
