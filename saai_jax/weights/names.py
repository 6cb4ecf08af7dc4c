"""The map between the names and axes of PyTorch checkpoints (read by saai_jax.weights.pth) and ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging

from saai_jax.weights.pth import WeightsError, listed

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}  # of a kernel: HWIO -> OIHW, [d n] -> [n d]
CLASSIFIER = "classifier.weight"  # a row an identity, in every system


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a System is a static argument of jit
class Names:
    """What a system's parameters are called in its original.

    table: (pattern of our module's path, torch's module, or those of a tuple: our arrays are theirs, stacked).
    leaves: torch's names of our arrays beside LEAVES. ignored: patterns of tensors that our network does not use.
    zeros: tensors that are zero in every release and that our network does not have. copies: a tensor that a
    checkpoint may lack, and the one it then equals; all of them are missing or none. imagenet: (pattern of tensors of
    torchvision's ResNet, prefixes of our tensors that start as they do).
    """

    table: Sequence[tuple[str, str | tuple[str, ...]]]
    leaves: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: Sequence[str] = ()
    zeros: Sequence[str] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    imagenet: Sequence[tuple[str, tuple[str, ...]]] = ()


class Named(Protocol):
    """Of a System, what is needed here."""

    @property
    def names(self) -> Names: ...


def resnet_names(ours: str, torch: str) -> list[tuple[str, str]]:
    """The table of a `models.resnet.ResNet` by the prefixes of its names, such as "backbone/" and "backbone."."""
    return [
        (rf"{ours}mam(\d)/squeeze", rf"{torch}MAM\1.channel_attention.0"),
        (rf"{ours}mam(\d)/excite", rf"{torch}MAM\1.channel_attention.2"),
        (rf"{ours}stem/((?:conv|bn)1)", rf"{torch}\1"),
        (rf"{ours}layer(\d)/block(\d+)/((?:conv|bn)\d)", rf"{torch}layer\1.\2.\3"),
        (rf"{ours}layer(\d)/block(\d+)/downsample_conv", rf"{torch}layer\1.\2.downsample.0"),
        (rf"{ours}layer(\d)/block(\d+)/downsample_bn", rf"{torch}layer\1.\2.downsample.1"),
    ]


def _slots(names: Names, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every array by its torch name, as a view with torch's axes: writing to it writes to `variables`."""
    slots, leaves = {}, LEAVES | dict(names.leaves)
    for keys, array in jax.tree.leaves_with_path(dict(variables)):
        collection, path = jax.tree_util.keystr(keys, simple=True, separator="/").split("/", 1)
        module, leaf = path.rsplit("/", 1)
        place = module if collection in ("params", "batch_stats") else f"{collection}/{module}"
        found = next(((m, torch) for pattern, torch in names.table if (m := re.fullmatch(pattern, place))), None)
        if not found or leaf not in leaves:
            raise WeightsError(f"no torch name is known for {collection}/{path}")
        match, torch = found
        parts = [(torch, array)] if isinstance(torch, str) else zip(torch, array, strict=True)
        for template, part in parts:
            axes = TORCH_AXES[part.ndim] if leaf == "kernel" else range(part.ndim)
            slots[f"{match.expand(template)}.{leaves[leaf]}"] = part.transpose(axes)
    return slots


def to_torch(system: Named, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of variables {"params": ..., **collections} (or of gradients, {"params": ...}) by torch's names.

    They have torch's axes. Raises WeightsError for an array that torch's model does not have.
    """
    return _slots(system.names, jax.tree.map(np.asarray, dict(variables)))


def identities_of(tensors: Mapping[str, np.ndarray]) -> int | None:
    """How many identities a system's checkpoint tells apart; None for a backbone alone."""
    return len(tensors[CLASSIFIER]) if CLASSIFIER in tensors else None


def from_torch(tensors: Mapping[str, np.ndarray], system: Named, variables: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `variables` filled from a checkpoint of the system's original, or from torchvision's ResNet.

    tensors: by torch's name. torchvision's is known by having no classifier of identities: its fc is ignored, and
    what it has nothing for keeps its values. Logs which parts of a checkpoint the original itself does not run. Raises
    WeightsError naming at once every tensor that the model does not have, that is missing, of another shape or type, or
    not zero where every release is.
    """
    names, filled = system.names, jax.tree.map(np.array, dict(variables))
    slots = _slots(names, filled)
    given, needed = dict(tensors), set(slots)
    if identities_of(tensors) is None:
        starts = [(re.compile(pattern), prefix) for pattern, prefixes in names.imagenet for prefix in prefixes]
        given = {name: array for name, array in tensors.items() if not name.startswith("fc.")}
        for name in list(given):
            if new := [prefix + name for pattern, prefix in starts if pattern.fullmatch(name)]:
                given |= dict.fromkeys(new, given.pop(name))
        of_backbone = lambda name, p, at: name.startswith(at) and p.fullmatch(name.removeprefix(at))  # noqa: E731
        needed = {name for name in slots if any(of_backbone(name, *start) for start in starts)}
    elif not any(new in given for new in names.copies):
        given |= {new: given[old] for new, old in names.copies.items() if new in slots and old in given}
    unknown, shapes, nonzero, unused = [], [], [], []
    for name, array in given.items():
        if name in names.zeros:
            nonzero += [name] if np.any(array) else []
        elif name in slots and (array.shape != slots[name].shape or array.dtype.kind != "f"):
            shapes.append(f"{name} (file {array.dtype} {array.shape}, model {slots[name].shape})")
        elif name in slots:
            slots[name][...] = array
        elif any(re.fullmatch(pattern, name) for pattern in names.ignored):
            unused.append(name)
        elif not name.endswith(".num_batches_tracked"):
            unknown.append(name)
    problems = {
        "not in the model": unknown,
        "missing in the file": sorted(needed - given.keys()),
        "of another shape or type": shapes,
        "not zero, but frozen at zero in every release": nonzero,
    }
    if any(problems.values()):
        lines = [f"{len(n)} {what}: {listed(n)}" for what, n in problems.items() if n]
        told, model = identities_of(given), len(slots.get(CLASSIFIER, ()))
        if told and told != model:
            lines.append(
                f"the file tells {told} identities apart, the model {model}: train on {told} or from ImageNet's"
            )
        raise WeightsError("\n".join(lines))
    if unused:
        parts = dict.fromkeys(".".join(name.split(".")[:3]) for name in unused)
        logging.info("%d tensors are of parts that the network never runs: %s", len(unused), listed(parts))
    return filled
