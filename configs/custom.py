"""Ranks any features by two lists of one's own: text files with the paths of the queries and of the gallery.

    python launch.py --config=configs/custom.py --mode=rank --features=FILE \
        --config.data.query_list=query.txt --config.data.gallery_list=gallery.txt --config.data.rule=same-camera
"""

from configs import common


def change(config) -> None:
    """Features alone, ranked by cosine."""
    config.data.root, config.inference = "", "cosine"


def get_config(argument: str | None = None):
    """The experiment with the words of the argument."""
    return common.experiment("custom", argument, change=change)
