"""What compilers plan for accelerators that are not here: python -m benchmarks.accelerators [step embed aim gallery]

Memory, operations, bytes and the time they take at least, of a training step and the embedding of every system at its
released size, of AIM, and of a gallery of a million images: compiled, not run. Needs the compilers alone:

    pip install --no-deps --target .compilers libtpu jax-cuda12-plugin==JAX jax-cuda12-pjrt==JAX   # JAX: jax's version
    PYTHONPATH=.compilers python -m benchmarks.accelerators --chips v5e,h100 --dtypes bfloat16 --words saai,agw

A step of ResNet-50 takes minutes to compile. Rows are printed as they come, and kept with --keep FILE: a table that was
stopped goes on.
"""

from __future__ import annotations

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from benchmarks.measuring import arguments, show
from configs import common, synthetic, sysu
from modes.building import system_of
from saai_jax import parallel, train
from saai_jax.affinity import graph, tiles
from saai_jax.affinity.aim import dense
from saai_jax.affinity.mesh import gallery_mesh
from saai_jax.ranking.evaluate import of_pixels

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Chip(NamedTuple):
    """peak: operations a second in bfloat16; bandwidth: of its memory, bytes a second; clock: of the TPU's cycles."""

    platform: str
    topologies: dict[int, str]  # by the number of chips
    peak: float
    bandwidth: float
    clock: float = 0.0


CHIPS = {
    "v5e": Chip("tpu", {1: "v5e:2x2", 4: "v5e:2x2", 8: "v5e:2x4"}, 197e12, 819e9, 1.5e9),
    "v5p": Chip("tpu", {1: "v5p:2x2x1", 4: "v5p:2x2x1", 8: "v5p:2x2x2"}, 459e12, 2765e9, 1.75e9),
    "v6e": Chip("tpu", {1: "v6e:2x2", 4: "v6e:2x2", 8: "v6e:2x4"}, 918e12, 1640e9, 1.75e9),
    "h100": Chip("cuda", {1: "1x1x1"}, 989e12, 3352e9),
}
# Without a GPU nothing is autotuned, and the default tiles of Triton's products do not fit those over few values.
OPTIONS = {"cuda": {"xla_gpu_enable_triton_gemm": False}, "tpu": None}
LENGTH, MILLION = 2048, 1_000_000
Program = tuple[Any, tuple, dict]  # a jitted function, shapes with their places, static arguments


def devices_of(chip: str, number: int) -> list:
    """So many devices of a topology that is not there; a smaller one than the vendor's smallest is a part of it."""
    c = CHIPS[chip]
    how = {"target_config": H100, "topology": c.topologies[number]} if c.platform == "cuda" else {}
    name = "" if how else c.topologies[number]
    return topologies.get_topology_desc(name, c.platform, **how).devices[:number]


def placed(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def network(word: str, mesh: Mesh, dtype: str, remat: bool, tiny: bool) -> tuple[Any, Any, dict, Any]:
    """The configuration, the system, the shapes of a batch and those of the first state."""
    config = synthetic.get_config(f"tiny,{word}") if tiny else sysu.get_config(word)
    config.model.dtype, config.model.remat = dtype, remat
    if tiny and "mam" in config.model:
        config.model.mam = (3,)
    system = system_of(config, 8 if tiny else 395, "gpu")
    n = config.data.identities * config.data.images
    rows, image = jnp.zeros(n, jnp.int32), (n, config.data.height, config.data.width, 3)
    batch = {"image": jnp.zeros(image, jnp.uint8), "identity": rows, "camera": rows, "modality": rows}
    state = jax.eval_shape(lambda key: train.new_state(system, *system.init(key)), jax.random.key(0))
    whole = NamedSharding(mesh, jax.P())
    return config, system, placed(batch, NamedSharding(mesh, jax.P(parallel.AXIS))), placed(state, whole)


def step(word: str, devices: list, dtype: str, remat: bool, tiny: bool = False) -> Program:
    """A training step of the released batch, split over the devices."""
    mesh = parallel.batch_mesh(devices)
    _, system, batch, state = network(word, mesh, dtype, remat, tiny)
    rest = jnp.float32(0), jnp.int32(0), jax.eval_shape(lambda: jax.random.key(0))
    return train.train_step, (state, batch, *placed(rest, NamedSharding(mesh, jax.P()))), {"system": system}


def embed(word: str, devices: list, dtype: str, remat: bool, tiny: bool = False) -> Program:
    """The retrieval features of config.eval.batch images."""
    mesh = parallel.batch_mesh(devices)
    config, system, batch, state = network(word, mesh, dtype, remat, tiny)
    n = 8 if tiny else config.eval.batch
    image = jax.ShapeDtypeStruct((n, *batch["image"].shape[1:]), jnp.uint8, sharding=batch["image"].sharding)
    modality = jax.ShapeDtypeStruct((n,), jnp.int32, sharding=batch["image"].sharding)
    return of_pixels, (system.embed, state.variables, image, modality), {}


def aim(devices: list, tiny: bool = False) -> Program:
    """AIM as one matrix of SYSU-MM01's multi-shot all-search, features of SAAI."""
    q, g, d = (8, 40, 64) if tiny else (3803, 3010, 16384)
    whole = NamedSharding(Mesh(np.array(devices), ("batch",)), jax.P())
    pair = placed((jax.ShapeDtypeStruct((q, d), jnp.float32), jax.ShapeDtypeStruct((g, d), jnp.float32)), whole)
    return dense, pair, {"k1": 20, "k2": 6, "variant": "released", "remove": True, "expand": True}


def gallery(kernel: str, devices: list, tiny: bool = False) -> Program:
    """A tile of queries against a gallery of a million images of LENGTH, spread over the devices."""
    mesh, n, k1, k2 = gallery_mesh(devices), len(devices), 20, 6
    queries, images = (16, 1024) if tiny else (64, graph.rounded(MILLION // n) * n)
    # A row of the sparse matrix has at most k1 k2 entries; a device's share of them fills its blocks at best by half.
    blocks = max(1, round(2 * k1 * k2 / n / graph.BLOCK)) * images
    own, whole = NamedSharding(mesh, jax.P(mesh.axis_names[0])), NamedSharding(mesh, jax.P())
    tile, kept = ((queries, LENGTH), whole), ((images, LENGTH), own)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=s) for shape, s in (tile, kept)]
    arrays.append(jax.ShapeDtypeStruct((), jnp.int32, sharding=whole))
    if kernel == "neighbours":
        return tiles.over(mesh, tiles.neighbours, k=k1 + 1, precision="highest"), tuple(arrays), {}
    entries = n, blocks, graph.BLOCK
    shapes = ((n, images + 1), jnp.int32), (entries, jnp.int32), (entries, jnp.float32)
    spread = tiles.Spread(*(jax.ShapeDtypeStruct(shape, dtype, sharding=own) for shape, dtype in shapes))
    how = {"k1": k1, "width": k1 + 1, "variant": "released", "precision": "highest", "top": 100}
    return tiles.over(mesh, tiles.nearest, **how), (*arrays, spread), {}


def plan(chip: str, program: Program) -> dict[str, Any]:
    """What the compiler plans for each chip: GB, Tflop, GB moved, and milliseconds at least and by its own estimate.

    The compiler of TPUs estimates cycles; the GPU's estimates nothing and counts no operations. XLA counts as moved all
    that operations read and write, also of what stays in fast memory.
    """
    c, (function, given, static) = CHIPS[chip], program
    lowered = function.trace(*given, **static).lower(lowering_platforms=(c.platform,))
    compiled = lowered.compile(compiler_options=OPTIONS[c.platform])
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    operations, moved = cost.get("flops"), cost.get("bytes accessed")
    text = compiled.as_text() if c.clock else ""
    cycles = map(int, re.findall(r'"estimated_cycles":"(\d+)"', text[text.find("\nENTRY") :]))
    return {
        "GB": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e9,
        "Tflop": operations and operations / 1e12,
        "GB moved": moved and moved / 1e9,
        "ms, at least": operations and moved and 1e3 * max(operations / c.peak, moved / c.bandwidth),
        "ms, estimate": 1e3 * sum(n for n in cycles if n < 1 << 50) / c.clock if c.clock else None,
    }


def programs(args) -> Iterator[tuple[dict[str, Any], Callable[[], Program]]]:
    """What stands at the left of each row, and what makes its program."""
    chips = [(chip, n) for chip in args.chips.split(",") for n in map(int, args.number.split(","))]
    chips = [(chip, n) for chip, n in chips if n in CHIPS[chip].topologies]
    networks = {"step": step, "embed": embed}
    for (chip, n), section in itertools.product(chips, args.section):
        left = {"program": section, "chip": chip, "chips": n, "dtype": "float32", "remat": "no"}
        if section in networks:
            for word, dtype, remat in itertools.product(
                args.words.split(","), args.dtypes.split(","), (False, True) if args.remat else (False,)
            ):
                what = {"program": f"{section} {word}", "dtype": dtype, "remat": "yes" if remat else "no"}
                how = word, devices_of(chip, n), dtype, remat, args.tiny
                yield left | what, functools.partial(networks[section], *how)
        elif section == "aim" and n == 1:
            yield left, functools.partial(aim, devices_of(chip, n), args.tiny)
        elif section == "gallery" and n > 1:
            for kernel in ("neighbours", "nearest"):
                how = functools.partial(gallery, kernel, devices_of(chip, n), args.tiny)
                yield left | {"program": f"gallery, {kernel}"}, how


def main(given: list[str] | None = None) -> None:
    options: dict[str, dict] = {
        "--chips": {"default": ",".join(CHIPS), "help": f"of {', '.join(CHIPS)}"},
        "--number": {"default": "1,4", "help": "of chips: 1, 4 or 8"},
        "--words": {"default": ",".join(common.SYSTEMS), "help": "systems"},
        "--dtypes": {"default": "float32,bfloat16", "help": "of the convolutions"},
        "--remat": {"action": "store_true", "help": "each network also with model.remat"},
        "--tiny": {"action": "store_true", "help": "small networks and galleries: whether all of it compiles"},
        "--keep": {"help": "a .jsonl file: rows that it has are not compiled again"},
    }
    args = arguments("accelerators", __doc__ or "", ("step", "embed", "aim", "gallery"), options, given)
    file = Path(args.keep) if args.keep else None
    kept = [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []

    def rows() -> Iterator[dict[str, Any]]:
        for left, program in programs(args):
            before = [row for row in kept if left.items() <= row.items()]
            row = before[0] if before else left | plan(left["chip"], program())
            if file and not before:
                with file.open("a") as out:
                    out.write(json.dumps(row) + "\n")
            yield row

    show("Planned for each chip (compiled, not run)", rows())


if __name__ == "__main__":
    main()
