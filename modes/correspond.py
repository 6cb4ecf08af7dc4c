"""What two pictures show in common, by the feature map of any trained system (LbA, ICCV 2021, S4 and S5)."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, Int, UInt8
from ml_collections import ConfigDict

from input_pipeline import market
from input_pipeline import pictures as own_pictures
from input_pipeline.images import gather_errors
from input_pipeline.index import DataError
from input_pipeline.lists import read_text
from modes.building import source_of, trained
from saai_jax.files import atomic_write
from saai_jax.models import cmalign
from saai_jax.ranking.evaluate import of_pixels
from saai_jax.report import pictures
from saai_jax.report.correspondence import Aligned, Matches, centres, strongest
from saai_jax.systems.system import Tree

MOST = 100  # pairs: pictures of more could not be written


class Pair(NamedTuple):
    """Paths of two pictures, and the word that they are shown under, which may be empty."""

    first: str
    second: str
    group: str


def aligned(
    dense: Callable[..., Array], variables: Tree, image: UInt8[np.ndarray, "2 h w 3"], modality: Int[np.ndarray, b]
) -> Aligned:
    """Two images matched by a system's map; one program, however many pairs there are."""
    return Aligned(*jax.device_get(_aligned(dense, variables, image, modality)))


@functools.partial(jax.jit, static_argnames="dense")
def _aligned(
    dense: Callable[..., Array], variables: Tree, image: UInt8[Array, "2 h w 3"], modality: Int[Array, b]
) -> tuple[Array, Array, Array]:
    x = of_pixels(dense, variables, image, modality)
    probability, mask = cmalign.probability(x, x[::-1]), cmalign.mask(x)
    return probability, mask, cmalign.coattention(probability, mask, mask[::-1])


def correspond(
    config: ConfigDict,
    workdir: str,
    *,
    pair: Sequence[str] = (),
    pairs: str | None = None,
    modality: str = "infrared",
    mutual: bool = False,
    mask: bool = False,
) -> None:
    """Writes coattention.png, correspondences.png and correspondences.json of pairs of pictures, by the run's weights.

    pair: texts A,B or A,B,GROUP; pairs: a file of such lines. modality: of A, and B is of the other one; in a data set
    of visible pictures both are visible. mutual, mask: filters of `correspondence.strongest`.
    ValueError: no pairs or too many, a system without `dense`. DataError: all pairs and pictures that cannot be read.
    """
    asked, size = pairs_of(pair, pairs), source_of(config).size
    paths = [path for of in asked for path in (of.first, of.second)]
    read = gather_errors(lambda path: own_pictures.read(path, size), paths)
    images = np.reshape(read, (len(asked), 2, *size.shape))
    system, variables = trained(config, workdir)
    if system.dense is None:
        raise ValueError(f"system {config.system!r} has no feature map to match, expected one with System.dense")
    kinds = [modality, "infrared" if modality == "visible" else "visible"]
    kinds = ["visible"] * 2 if config.dataset in market.DATASETS else kinds
    codes = np.array([own_pictures.MODALITIES[kind] for kind in kinds], np.int32)
    found = [aligned(system.dense, variables, image, codes) for image in images]
    matches = []
    for of in found:
        masks = {"mask": of.mask[0].ravel(), "target_mask": of.mask[1].ravel()} if mask else {}
        matches.append(strongest(of.probability[0], of.probability[1] if mutual else None, **masks))
    shape = found[0].mask.shape[1:]
    names = [(of.first, of.second) for of in asked]
    groups = [of.group for of in asked]
    titles = [group if group not in groups[:i] else "" for i, group in enumerate(groups)]  # above the first row alone
    file = functools.partial(os.path.join, workdir)
    with atomic_write(file("correspondences.json")) as temporary:
        written = {"height": size.height, "width": size.width, "modality": kinds, "mutual": mutual, "mask": mask}
        written["pairs"] = [
            {**of._asdict(), "matches": listed(m, shape, (size.height, size.width))}
            for of, m in zip(asked, matches, strict=True)
        ]
        temporary.write_text(json.dumps(written, indent=1))
    pictures.coattention_maps(images, found, names, titles).savefig(file("coattention.png"), dpi=100)
    pictures.correspondences(images, matches, shape, names, titles).savefig(file("correspondences.png"), dpi=100)
    logging.info("wrote correspondences.json, correspondences.png and coattention.png to %s", workdir)


def pairs_of(texts: Sequence[str], file: str | None) -> list[Pair]:
    """The pairs of texts and of a file's lines, those of a group together. Raises as `correspond`."""
    given = [(f"--pair={text}", text) for text in texts]
    if file:
        lines = enumerate(read_text(file).splitlines(), 1)
        given += [(f"{file}:{number}: {line!r}", line) for number, line in lines if line.strip()]
    if not 0 < len(given) <= MOST:
        raise ValueError(
            f"--mode=correspond needs --pair=A,B or --pairs=FILE of such lines, got {len(given)} pairs, "
            f"expected 1 to {MOST}"
        )

    def pair(given: tuple[str, str]) -> Pair:
        words = [word.strip() for word in given[1].split(",")]
        if not 2 <= len(words) <= 3 or not all(words[:2]):
            raise DataError(f"{given[0]}: expected A,B or A,B,GROUP, the paths of two pictures and a word")
        return Pair(*words[:2], *(words[2:] or [""]))

    found = gather_errors(pair, given)
    order = ["", *dict.fromkeys(of.group for of in found)]
    return sorted(found, key=lambda of: order.index(of.group))


def listed(matches: Matches, shape: tuple[int, int], size: tuple[int, int]) -> list[dict]:
    """Each match as x and y in both pictures, in pixels of this size, and its probability."""
    first, second = (centres(of, shape, size).tolist() for of in (matches.position, matches.target))
    rows = zip(first, second, matches.probability.tolist(), strict=True)
    return [{"first": a, "second": b, "probability": p} for a, b, p in rows]
