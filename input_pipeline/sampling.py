"""The order of a whole training run as one array, a pure function of labels and seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from input_pipeline.images import shorten
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index


class Plan(NamedTuple):
    """rows: i32[steps, p k], the index row of every image of every batch; epoch: i32[steps], from 0."""

    rows: np.ndarray
    epoch: np.ndarray

    @property
    def steps_per_epoch(self) -> np.ndarray:
        """i64[epochs] counted batches; they vary by one or so, because an epoch ends when identities run out."""
        return np.bincount(self.epoch)


def rows_by_modality(identity: np.ndarray, modality: np.ndarray) -> dict[int, dict[int, np.ndarray]]:
    """{identity: {modality: rows}} in ascending order of identity and row."""
    return {
        int(i): {m: np.flatnonzero((identity == i) & (modality == m)) for m in (VISIBLE, INFRARED)}
        for i in np.unique(identity)
    }


def incomplete_identities(identity: np.ndarray, modality: np.ndarray, each: int) -> list[int]:
    """Identities with fewer than `each` images in a modality; the sampler cannot use them."""
    counts = rows_by_modality(identity, modality)
    return [i for i, rows in counts.items() if min(map(len, rows.values())) < each]


def _chunks(rng: np.random.Generator, rows: dict[int, np.ndarray], each: int) -> list[np.ndarray]:
    """One epoch of one identity: both modalities cut to the same number of images, in groups of 2 each."""
    m = min(len(rows[VISIBLE]), len(rows[INFRARED])) // each * each
    # A permutation cut short is a subsample without replacement that is already shuffled.
    visible, infrared = (rng.permutation(rows[key])[:m] for key in (VISIBLE, INFRARED))
    return list(np.stack([infrared, visible], 1).reshape(-1, 2 * each))


def _epoch(rng: np.random.Generator, by_identity: dict[int, dict[int, np.ndarray]], p: int, each: int) -> np.ndarray:
    """i32[batches, 2 p each]: random sets of p identities until fewer than p have images left."""
    chunks = [_chunks(rng, rows, each) for rows in by_identity.values()]
    left = np.array([len(c) for c in chunks])
    batches = []
    while (ready := np.flatnonzero(left)).size >= p:
        drawn = rng.permutation(ready)[:p]
        left[drawn] -= 1
        batches.append(np.concatenate([chunks[i][left[i]] for i in drawn]))
    return np.stack(batches).astype(np.int32)


def sampling_plan(
    identity: np.ndarray, modality: np.ndarray, *, identities: int, images: int, epochs: int, seed: int
) -> Plan:
    """The paired identity sampling of the released code for `epochs` epochs.

    identity, modality: i32[n] of the training rows. A batch has `identities` identities one after the other, with
    images/2 infrared and images/2 visible images each, which take turns. In an epoch an identity gives as many such
    sets as the rarer of its modalities allows, no image twice. Epoch e depends on (seed, e) alone, so a longer run
    begins with a shorter one. Raises DataError for an identity with too few images of a modality and for fewer
    identities than a batch needs; ValueError for an odd `images`, no identity or no epoch.
    """
    each = images // 2
    by_identity = _usable(identity, modality, identities, images, each)
    return _plan(lambda rng: _epoch(rng, by_identity, identities, each), epochs, seed)


def replacement_plan(
    identity: np.ndarray, modality: np.ndarray, *, identities: int, images: int, epochs: int, seed: int
) -> Plan:
    """The sampling of AGW's released code, which draws images with replacement; arguments as of `sampling_plan`.

    Each batch draws its identities anew, none twice. It holds images/2 visible images of each, one identity after the
    other, and then the infrared ones in the same order. An identity needs one image of each modality.
    """
    each = images // 2
    by_identity = _usable(identity, modality, identities, images, 1)
    kinds = [[rows[kind] for rows in by_identity.values()] for kind in (VISIBLE, INFRARED)]
    # The release rounds down and adds one, even where nothing is left over. No published data set divides evenly.
    batches = np.bincount(modality, minlength=2).max() // (identities * each) + 1

    def epoch(rng: np.random.Generator) -> np.ndarray:
        drawn = rng.permuted(np.tile(np.arange(len(by_identity)), (batches, 1)), axis=1)[:, :identities, None]
        sides = []
        for rows in kinds:
            count = np.array([len(of) for of in rows])
            first = np.cumsum(count) - count
            picks = first[drawn] + rng.integers(count[drawn], size=(batches, identities, each))
            sides.append(np.concatenate(rows)[picks].reshape(batches, -1))
        return np.concatenate(sides, 1).astype(np.int32)

    return _plan(epoch, epochs, seed)


def camera_plan(
    identity: np.ndarray, camera: np.ndarray, *, identities: int, images: int, epochs: int, seed: int
) -> Plan:
    """`replacement_plan` where all images are of one modality: cameras take its place (LbA, supplement S2).

    camera: i32[n]. A batch holds images/2 images of one camera of each identity, one identity after the other, and then
    of another camera of the same identities in the same order; every batch draws two cameras of an identity anew,
    evenly. An epoch counts batches as `replacement_plan`, of all images. Raises DataError for an identity seen by one
    camera only, and as `replacement_plan`.
    """
    _refuse_shape(identities, images)
    each = images // 2
    if alone := of_one_camera(identity, camera):
        raise DataError(
            f"{len(alone)} training identities are seen by one camera only: {shorten(alone, 20)}; the sampler cameras "
            "draws two of each: complete them, or leave them out with --config.data.skip_incomplete=True"
        )
    # A cell is an identity under a camera: its images follow each other in `order`, an identity's cells in `cells`.
    order = np.lexsort((camera, identity))
    cells, first, count = np.unique(
        np.stack([identity, camera], 1)[order], axis=0, return_index=True, return_counts=True
    )
    _, start, cameras = np.unique(cells[:, 0], return_index=True, return_counts=True)
    _refuse_few(len(start), identities)
    batches = len(identity) // (identities * images) + 1

    def epoch(rng: np.random.Generator) -> np.ndarray:
        drawn = rng.permuted(np.tile(np.arange(len(start)), (batches, 1)), axis=1)[:, :identities]
        one = rng.integers(cameras[drawn])
        other = (one + rng.integers(1, cameras[drawn])) % cameras[drawn]
        cell = start[drawn][:, None] + np.stack([one, other], 1)
        picks = first[cell][..., None] + rng.integers(count[cell][..., None], size=(*cell.shape, each))
        return order[picks].reshape(batches, -1).astype(np.int32)

    return _plan(epoch, epochs, seed)


def of_one_camera(identity: np.ndarray, camera: np.ndarray) -> list[int]:
    """Identities that one camera alone has seen, ascending."""
    people, cameras = np.unique(np.unique(np.stack([identity, camera], 1), axis=0)[:, 0], return_counts=True)
    return people[cameras < 2].tolist()


def _plan(epoch: Callable[[np.random.Generator], np.ndarray], epochs: int, seed: int) -> Plan:
    """The rows of each epoch by a generator of its own. Raises ValueError for no epoch."""
    if epochs < 1:
        raise ValueError(f"{epochs} epochs; expected at least one")
    per_epoch = [epoch(np.random.default_rng([seed, e])) for e in range(epochs)]
    return Plan(np.concatenate(per_epoch), np.repeat(np.arange(epochs, dtype=np.int32), [len(r) for r in per_epoch]))


def _usable(
    identity: np.ndarray, modality: np.ndarray, identities: int, images: int, least: int
) -> dict[int, dict[int, np.ndarray]]:
    """`rows_by_modality`, where every identity has `least` images of each. Raises as `sampling_plan`."""
    _refuse_shape(identities, images)
    if few := incomplete_identities(identity, modality, least):
        missing = f"fewer than {least} visible or {least}" if least > 1 else "no visible or no"
        raise DataError(
            f"{len(few)} training identities have {missing} infrared images: "
            f"{', '.join(map(str, few[:20]))}{' ...' if len(few) > 20 else ''}; "
            "complete them, or leave them out with --config.data.skip_incomplete=True"
        )
    by_identity = rows_by_modality(identity, modality)
    _refuse_few(len(by_identity), identities)
    return by_identity


def _refuse_shape(identities: int, images: int) -> None:
    if images % 2 or images < 2:
        raise ValueError(f"{images} images of an identity in a batch; expected an even number, half in each half of it")
    if identities < 1:
        raise ValueError(f"{identities} identities in a batch; expected at least one")


def _refuse_few(found: int, identities: int) -> None:
    if found < identities:
        raise DataError(
            f"a batch needs {identities} identities, the training set has {found}; lower --config.data.identities"
        )


# By the name that config.data.sampler has; all give a Plan, of the identities and of a column of the index.
SAMPLERS = {"paired": sampling_plan, "replacement": replacement_plan, "cameras": camera_plan}
COLUMN = {"paired": "modality", "replacement": "modality", "cameras": "camera"}  # of which a batch has two of each
ONE_IS_ENOUGH = ("replacement", "cameras")  # draw an image as often as a batch needs


def plan_of(index: Index, sampler: str, **shape: int) -> Plan:
    """The plan of a sampler for the rows of an index; shape: the keywords of `sampling_plan`."""
    return SAMPLERS[sampler](index.identity, getattr(index, COLUMN[sampler]), **shape)


def images_needed(sampler: str, images: int) -> int:
    """Images of each modality or camera that a sampler needs of an identity, to fill a batch with `images` of it.

    Raises ValueError for a sampler that is not known.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"data.sampler is {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    return 1 if sampler in ONE_IS_ENOUGH else images // 2


def unusable(index: Index, sampler: str, images: int) -> list[int]:
    """Identities with too few images, or too few cameras, for a sampler that draws `images` of each for a batch.

    Raises ValueError for a sampler that is not known.
    """
    least = images_needed(sampler, images)
    if COLUMN[sampler] == "camera":
        return of_one_camera(index.identity, index.camera)
    return incomplete_identities(index.identity, index.modality, least)
