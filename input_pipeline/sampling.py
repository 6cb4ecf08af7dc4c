"""The order of a whole training run as one array, a pure function of labels and seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from input_pipeline.index import INFRARED, VISIBLE, DataError


class Plan(NamedTuple):
    """rows: i32[steps, p k], the index row of every image of every batch; epoch: i32[steps], from 0.

    A batch holds p identities one after the other, each as infrared, visible, infrared, visible, ...
    """

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

    identity, modality: i32[n] of the training rows. A batch has `identities` identities with images/2 infrared and
    images/2 visible images each. In an epoch an identity gives as many such sets as the rarer of its modalities allows,
    no image twice. Epoch e depends on (seed, e) alone, so a longer run begins with a shorter one.
    Raises DataError for an identity with too few images of a modality and for fewer identities than a batch needs;
    ValueError for an odd `images` or no epoch.
    """
    if epochs < 1:
        raise ValueError(f"{epochs} epochs; expected at least one")
    if images % 2 or images < 2:
        raise ValueError(f"{images} images of an identity in a batch; expected an even number, half of each modality")
    each = images // 2
    if few := incomplete_identities(identity, modality, each):
        raise DataError(
            f"{len(few)} training identities have fewer than {each} visible or {each} infrared images: "
            f"{', '.join(map(str, few[:20]))}{' ...' if len(few) > 20 else ''}; "
            "complete them, or leave them out with --config.data.skip_incomplete=True"
        )
    by_identity = rows_by_modality(identity, modality)
    if len(by_identity) < identities:
        raise DataError(
            f"a batch needs {identities} identities, the training set has {len(by_identity)}; "
            "lower --config.data.identities"
        )
    per_epoch = [_epoch(np.random.default_rng([seed, e]), by_identity, identities, each) for e in range(epochs)]
    epoch = np.repeat(np.arange(epochs, dtype=np.int32), [len(rows) for rows in per_epoch])
    return Plan(np.concatenate(per_epoch), epoch)


SAMPLERS = {"paired": sampling_plan}  # by the name that config.data.sampler has; all give a Plan
