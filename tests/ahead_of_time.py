"""Compiles a small SAAI's step and embedding for a chip that is not there: python -m tests.ahead_of_time CHIP DTYPE

CHIP is h100 or v5e. Prints the bytes that the compiler plans for each. A process of its own, whose path has the
compilers (jax's CUDA plugin without NVIDIA's libraries, libtpu): JAX finds them when it is imported.
"""

import os
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from configs import synthetic
from modes.building import system_of
from saai_jax import train

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
# Without a GPU nothing is autotuned, and the default tiles of Triton's products do not fit those over few values.
OPTIONS = {"h100": {"xla_gpu_enable_triton_gemm": False}, "v5e": None}


def device_of(chip: str):
    if chip == "h100":
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    return topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu").devices[0]


def main(chip: str, dtype: str) -> None:
    config = synthetic.get_config("tiny")
    config.model.dtype, config.model.mam = dtype, (3,)
    system = system_of(config, 4, {"h100": "gpu", "v5e": "tpu"}[chip])
    placed = NamedSharding(Mesh([device_of(chip)], ("batch",)), jax.P())

    def shaped(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), tree)

    state = shaped(jax.eval_shape(lambda key: train.new_state(system, *system.init(key)), jax.random.key(0)))
    rows, n = jnp.zeros(8, jnp.int32), (8, config.data.height, config.data.width, 3)
    batch = shaped({"image": jnp.zeros(n, jnp.uint8), "identity": rows, "modality": rows})
    rest = shaped((jnp.float32(0), jnp.int32(0), jax.eval_shape(lambda: jax.random.key(0))))
    image = shaped(jnp.zeros(n))
    for name, lowered in (
        ("step", train.train_step.trace(state, batch, *rest, system=system)),
        ("embed", jax.jit(system.embed).trace(state.variables, image, batch["modality"])),
    ):
        platform = "cuda" if chip == "h100" else "tpu"
        compiled = lowered.lower(lowering_platforms=(platform,)).compile(compiler_options=OPTIONS[chip])
        memory = compiled.memory_analysis()
        print(name, memory.temp_size_in_bytes + memory.argument_size_in_bytes)


if __name__ == "__main__":
    main(*sys.argv[1:])
