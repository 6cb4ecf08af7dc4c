"""The embedded default: a drawn visible-infrared set, a small SAAI trained from scratch, the SYSU-MM01 protocol.

    python launch.py

Measured, seed 0: docs/synthetic.md has the table and what it was measured on.

Presets: tiny or large draw another size; regdb or llcm write and read that layout instead, market Market-1501's, of
visible images for the words lba, lba-baseline, pcb and pcb-lba; singleshot, multishot, all, indoor choose what is
reported; released (default) or paper; baseline is the paper's of Table 3; the words of
docs/systems.md are other systems.
"""

from configs import common


def size(name: str, height: int, width: int) -> common.Preset:
    """Another size of the drawn set."""

    def preset(config):
        config.data.synthetic = name
        config.data.height, config.data.width = height, width

    return preset


def layout(name: str) -> common.Preset:
    """Another data set's folders and protocol."""

    def preset(config):
        config.dataset, config.eval.protocol = name, ""

    return preset


def market(config) -> None:
    """Market-1501's folders and protocol, visible images alone."""
    layout("market1501")(config)
    common.visible_alone(config)


def tiny(config) -> None:
    """Seconds instead of minutes: shows that everything runs, and learns nothing worth reporting."""
    size("tiny", 48, 24)(config)
    config.data.identities, config.data.images = 4, 4
    config.model.width, config.model.stem_pool = 8, False
    config.train.epochs = 2
    config.train.log_every = 1


PRESETS = {
    "tiny": tiny,
    "small": size("small", 96, 48),
    "large": size("large", 288, 144),
    "regdb": layout("regdb"),
    "llcm": layout("llcm"),
    "market": market,
}


def change(config) -> None:
    """A small network trained from scratch, for whichever system."""
    d, m, t = config.data, config.model, config.train
    d.root, d.published, d.validation = "", False, True
    d.identities, d.images = 8, 8
    m.stages, m.width, m.bottleneck, m.stem_pool = (1, 1, 1, 1), 16, False, True
    if "mam" in m:
        m.mam = ()
    if "non_local" in m:
        m.non_local = (0, 1, 1, 0)
    if "attention_heads" in m:
        m.attention_heads = 2  # a divisor of the narrowest stage's channels
    t.epochs, t.warmup, t.milestones = 24, 2, (15, 21)
    t.learning_rate = 2e-3
    if "backbone_factor" in t:  # SGD
        t.learning_rate, t.backbone_factor = 0.05, 1.0
    t.log_every, t.validate_every = 10, 1
    if "pad" in config.augment:
        config.augment.pad = 4
    config.eval.baselines = True
    size("small", 96, 48)(config)


def get_config(argument: str | None = None):
    """The experiment with the words of the argument."""
    return common.experiment("sysu", argument, {**PRESETS, **common.REPORTED}, change)
