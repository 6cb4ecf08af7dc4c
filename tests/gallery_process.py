"""One of several processes that hold a gallery together: gallery_process.py PORT PROCESSES NUMBER RESULT."""

import sys

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")


def main(port: str, processes: str, number: str, result: str) -> None:
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(number))
    from saai_jax.affinity import Gallery, gallery_mesh

    random = np.random.default_rng(0)  # every process has the same arrays
    images, query = (random.standard_normal((n, 16)).astype(np.float32) + 0.3 for n in (101, 40))
    gallery = Gallery.build(images, k1=5, k2=3, mesh=gallery_mesh())
    assert gallery.mesh.size == 2 * int(processes)
    found = gallery.search(query, 10)
    changed = gallery.add(query[:7]).remove(np.arange(30))
    np.savez(result, index=found.index, distance=found.distance, changed=changed.distances(query))


if __name__ == "__main__":
    main(*sys.argv[1:])
