"""The systems of the papers: each a tuple of pure functions, in a file of its own."""

from saai_jax.systems import agw, lba, mpanet, saai, sim_baseline

SYSTEMS = {  # by the name that config.system has
    "saai": saai.build,
    "agw": agw.build,
    "mpanet": mpanet.build,
    "lba": lba.build,
    "sim-baseline": sim_baseline.build,
}
ONE_MODALITY = ("lba",)  # can also learn from visible images alone
# A tensor that the released checkpoints of a system have, and those of another have not. LbA's has AGW's names, those
# of its base method: what tells them apart are AGW's non-local blocks, which their tables of names miss or refuse.
MARKS = {
    "saai": "attn_pool.part_tokens",
    "agw": "visible_module.visible.conv1.weight",
    "mpanet": "spatial_attention.weight",
    "lba": "visible_module.visible.conv1.weight",
}
