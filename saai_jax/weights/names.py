"""The map between the names and axes of torch's SAAI or ResNet checkpoints (read by saai_jax.weights.pth) and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from saai_jax.weights.pth import WeightsError, listed, read_pth

__all__ = ["Loaded", "WeightsError", "from_torch", "read_pth", "to_torch_names"]

# Our modules and torch's. The neck's rows and the EMA classifiers are written as modules of their own, see _slots.
TABLE = [
    (r"backbone/((?:conv|bn)1)", r"backbone.\1"),
    (r"backbone/layer(\d)_(\d+)/((?:conv|bn)\d)", r"backbone.layer\1.\2.\3"),
    (r"backbone/layer(\d)_(\d+)/downsample_conv", r"backbone.layer\1.\2.downsample.0"),
    (r"backbone/layer(\d)_(\d+)/downsample_bn", r"backbone.layer\1.\2.downsample.1"),
    (r"backbone/mam(\d)/squeeze", r"backbone.MAM\1.channel_attention.0"),
    (r"backbone/mam(\d)/excite", r"backbone.MAM\1.channel_attention.2"),
    (r"safl", r"attn_pool"),
    (r"neck/0", r"bn_neck.bn_neck_v"),
    (r"neck/1", r"bn_neck.bn_neck_i"),
    (r"shared_classifier", r"classifier"),
    (r"(visible|infrared)_classifier", r"\1_classifier"),
    (r"teacher/(visible|infrared)", r"\1_classifier_"),
]
LEAVES = dict(kernel="weight", scale="weight", bias="bias", mean="running_mean", var="running_var")
LEAVES |= dict(prototypes="part_tokens", position="pos_embeding")  # the release's spelling
TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}  # of a kernel: HWIO -> OIHW, [d n] -> [n d]
FROZEN = ("bn_neck.bn_neck_v.bias", "bn_neck.bn_neck_i.bias")  # zero in every release; our neck has no bias


class Loaded(NamedTuple):
    """variables: as given, filled; teacher: the EMA classifiers {'visible': f[d n], 'infrared': f[d n]}, or None."""

    variables: dict[str, Any]
    teacher: dict[str, np.ndarray] | None


def _slots(variables: Mapping, teacher: Mapping | None) -> dict[str, np.ndarray]:
    """Every array under torch's name, as a view with torch's axes: writing to it writes to `variables`."""
    tree = {**variables, "teacher": {f"teacher/{modality}": {"kernel": w} for modality, w in (teacher or {}).items()}}
    slots = {}
    for keys, array in jax.tree.leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        module, leaf = path.split("/", 1)[1].rsplit("/", 1)
        for place, part in [("neck/0", array[0]), ("neck/1", array[1])] if module == "neck" else [(module, array)]:
            names = [match.expand(torch) for ours, torch in TABLE if (match := re.fullmatch(ours, place))]
            if not names or leaf not in LEAVES:
                raise WeightsError(f"no torch name is known for {path}")
            axes = TORCH_AXES[part.ndim] if leaf == "kernel" else range(part.ndim)
            slots[f"{names[0]}.{LEAVES[leaf]}"] = part.transpose(axes)
    return slots


def to_torch_names(variables: Mapping, teacher: Mapping | None = None) -> dict[str, np.ndarray]:
    """The arrays of `variables` (or of gradients, as {'params': ...}) by torch's names, with torch's axes.

    teacher: as in Loaded. Raises WeightsError for an array that torch's model does not have.
    """
    return _slots(jax.tree.map(np.asarray, dict(variables)), jax.tree.map(np.asarray, teacher))


def from_torch(state_dict: Mapping[str, np.ndarray], variables: Mapping, *, partial: bool = False) -> Loaded:
    """A copy of `variables` ({'params': ..., 'batch_stats': ...}) filled from a released SAAI state dict, as numpy.

    partial: from torchvision's ImageNet ResNet: its fc is ignored; heads, MAM and neck keep their values.
    Raises WeightsError naming at once every tensor unknown to the model, missing in the file, or of another shape.
    """
    if partial:
        state_dict = {f"backbone.{name}": a for name, a in state_dict.items() if not name.startswith("fc.")}
    filled = jax.tree.map(np.array, dict(variables))
    teacher = None
    if any(name.endswith("_classifier_.weight") for name in state_dict) and "visible_classifier" in filled["params"]:
        teacher = {m: np.empty_like(filled["params"][f"{m}_classifier"]["kernel"]) for m in ("visible", "infrared")}
    slots = _slots(filled, teacher)
    unknown, shapes, frozen = [], [], []
    missing = {n for n in slots if not partial or (n.startswith("backbone.") and not n.startswith("backbone.MAM"))}
    for name, array in state_dict.items():
        missing.discard(name)
        if name in FROZEN:
            frozen += [name] if np.any(array) else []
        elif name.endswith(".num_batches_tracked"):
            continue
        elif name not in slots:
            unknown.append(name)
        elif array.shape != slots[name].shape or array.dtype.kind != "f":
            shapes.append(f"{name} (file {array.dtype} {array.shape}, model {slots[name].shape})")
        else:
            slots[name][...] = array
    problems = {"not in the model": unknown, "missing in the file": sorted(missing), "of another shape or type": shapes}
    problems["not zero, but frozen at zero in every release"] = frozen
    if any(problems.values()):
        raise WeightsError("\n".join(f"{len(n)} {what}: {listed(n)}" for what, n in problems.items() if n))
    return Loaded(filled, teacher)
