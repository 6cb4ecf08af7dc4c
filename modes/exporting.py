"""Programs that need none of this code: the embedding network and AIM, as StableHLO or ONNX."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from modes.building import trained
from saai_jax.affinity.aim import dense
from saai_jax.affinity.cosine import unit
from saai_jax.augment import normalise
from saai_jax.files import atomic_write
from saai_jax.systems.system import System, Tree

ONNX = "pip install -e '.[onnx]' && pip install --no-deps jax2onnx==0.17.1"
Shapes = dict[str, jax.ShapeDtypeStruct]  # of the arguments, in their order, by name


def export(config: ConfigDict, workdir: str, *, format: str = "stablehlo") -> None:
    """Writes the embedding network and AIM to workdir/export, each with a .json that says what goes in and comes out.

    format: stablehlo (CPU, GPU and TPU; read with jax.export) or onnx. The network is that of the run in workdir, or of
    config.model.weights; AIM has config.aim.own as its k1 and k2. Raises ValueError where the converter is missing.
    """
    found, about = programs(config, *trained(config, workdir, "gpu"))  # the convolutions that every platform has
    for name, (function, shapes) in found.items():
        data = FORMATS[format](function, shapes)
        file = os.path.join(workdir, "export", f"{name}.{format}")
        digest = {"file": os.path.basename(file), "sha256": hashlib.sha256(data).hexdigest()}
        with atomic_write(file) as temporary:
            temporary.write_bytes(data)
        with atomic_write(f"{file}.json") as temporary:
            temporary.write_text(json.dumps(digest | about, indent=1) + "\n", encoding="utf-8")
        logging.info("wrote %s, %.1f MB, and %s.json", file, len(data) / 1e6, file)


def programs(
    config: ConfigDict, system: System, variables: Tree
) -> tuple[dict[str, tuple[Callable[..., Array], Shapes]], dict[str, Any]]:
    """The functions network and aim with the shapes that they take, of any number of rows; and what to say of them."""
    d, (k1, k2) = config.data, config.aim.own

    def embed(image: UInt8[Array, "b h w 3"], modality: Int[Array, b]) -> Float[Array, "b d"]:
        return unit(system.embed(variables, normalise(image), modality))

    def aim(query: Float[Array, "q d"], gallery: Float[Array, "g d"]) -> Float[Array, "q g"]:
        how = {key: config.aim[key] for key in ("variant", "remove", "expand")}
        return dense(query, gallery, k1=k1, k2=k2, **how)

    (b,) = jax.export.symbolic_shape("b")
    q, g = jax.export.symbolic_shape(f"q, g + {max(k1, k2) - 1}")  # as many images as neighbours at least
    image = jax.ShapeDtypeStruct((b, d.height, d.width, 3), jnp.uint8)
    rows: Shapes = {"image": image, "modality": jax.ShapeDtypeStruct((b,), jnp.int32)}
    length = jax.eval_shape(embed, *rows.values()).shape[1]
    sides: Shapes = {name: jax.ShapeDtypeStruct((n, length), jnp.float32) for name, n in (("query", q), ("gallery", g))}
    about = {
        "system": config.system,
        "image": f"RGB, {d.height} x {d.width} pixels, resized by the {d.resample} filter; normalised inside",
        "modality": "0 visible, 1 infrared",
        "feature": f"{length} numbers, of unit length",
        "height": d.height,
        "width": d.width,
        "resample": d.resample,
        "k1": k1,
        "k2": k2,
    }
    return {"network": (embed, rows), "aim": (aim, sides)}, about


def stablehlo(function: Callable[..., Array], shapes: Shapes) -> bytes:
    """What jax.export.deserialize reads, for CPU, GPU and TPU."""
    exported = jax.export.export(jax.jit(function), platforms=["cpu", "cuda", "rocm", "tpu"])
    return bytes(exported(*shapes.values()).serialize())


def onnx(function: Callable[..., Array], shapes: Shapes) -> bytes:
    """What onnxruntime reads. Raises ValueError without jax2onnx."""
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ValueError(f"--format=onnx needs jax2onnx ({error}): {ONNX}") from error
    how: dict[str, Any] = {"input_names": list(shapes), "output_names": ["output"]}
    named = [jax.ShapeDtypeStruct([str(s.shape[0]), *s.shape[1:]], s.dtype) for s in shapes.values()]
    return to_onnx(function, named, **how).SerializeToString()


FORMATS = {"stablehlo": stablehlo, "onnx": onnx}
