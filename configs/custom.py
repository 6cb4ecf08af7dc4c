"""Ranks any features by two lists of one's own: text files with the paths of the queries and of the gallery.

    python launch.py --config=configs/custom.py --mode=rank --features=FILE \
        --config.data.query_list=query.txt --config.data.gallery_list=gallery.txt --config.data.rule=same-camera
"""

from configs import common


def get_config(argument: str | None = None):
    """The experiment with the presets of the argument."""
    config = common.get_config()
    config.dataset, config.data.root, config.inference = "custom", "", "cosine"
    common.apply(config, argument)
    return config
