"""The systems of the papers: each a tuple of pure functions, in a file of its own."""

from saai_jax.systems import agw, lba, mpanet, saai, sim_baseline, wrimnet

SYSTEMS = {  # by the name that config.system has
    "saai": saai.build,
    "agw": agw.build,
    "mpanet": mpanet.build,
    "lba": lba.build,
    "sim-baseline": sim_baseline.build,
    "wrimnet": wrimnet.build,
}
ONE_MODALITY = ("lba",)  # can also learn from visible images alone
# A tensor that the released checkpoints of a system have, and those of another have not; but LbA's have the names of
# AGW's base method, so that AGW's non-local blocks alone tell theirs apart: missing for one, unknown to the other.
MARKS = {
    "saai": "attn_pool.part_tokens",
    "agw": "visible_module.visible.conv1.weight",
    "mpanet": "spatial_attention.weight",
    "lba": "visible_module.visible.conv1.weight",
}
