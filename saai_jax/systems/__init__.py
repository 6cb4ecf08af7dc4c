"""The systems of the papers: each a tuple of pure functions, in a file of its own."""

from saai_jax.systems import agw, mpanet, saai, sim_baseline

SYSTEMS = {  # by the name that config.system has
    "saai": saai.build,
    "agw": agw.build,
    "mpanet": mpanet.build,
    "sim-baseline": sim_baseline.build,
}
ONE_MODALITY = ("lba",)  # never look at an image's modality, and learn from visible images alone
# A tensor that the released checkpoints of a system have, and those of another have not.
MARKS = {
    "saai": "attn_pool.part_tokens",
    "agw": "visible_module.visible.conv1.weight",
    "mpanet": "spatial_attention.weight",
}
