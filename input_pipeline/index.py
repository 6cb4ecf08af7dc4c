"""The types every data set is read into: one row of an index is one image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

VISIBLE, INFRARED = 0, 1


class DataError(Exception):
    """A data set on disk is not what its reader expects; the message names the file or folder."""


@dataclasses.dataclass(frozen=True)
class Index:
    """One split of a data set: row i of every array describes image i.

    path: str[n], relative to the data root; identity: i32[n], the data set's own numbers;
    camera: i32[n], from 1; modality: i32[n], VISIBLE or INFRARED.
    """

    path: np.ndarray
    identity: np.ndarray
    camera: np.ndarray
    modality: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "path", np.asarray(self.path, dtype=np.str_))
        for name in ("identity", "camera", "modality"):
            values = np.asarray(getattr(self, name))
            if len(values) != len(self.path):
                raise ValueError(f"Index.{name} has {len(values)} rows, path has {len(self.path)}")
            # Numbers from names and lists have any length; a cast would wrap them round into other people.
            if (wrong := (values < -(2**31)) | (values >= 2**31)).any():
                row = int(np.argmax(wrong))
                raise DataError(f"{self.path[row]}: {name} {values[row]} does not fit 32 bits")
            object.__setattr__(self, name, values.astype(np.int32))

    def __len__(self) -> int:
        return len(self.path)

    def take(self, rows: np.ndarray) -> Index:
        """The given rows, in the given order (a boolean mask selects)."""
        return Index(self.path[rows], self.identity[rows], self.camera[rows], self.modality[rows])

    def hold_out(self, every: int) -> tuple[Index, Index]:
        """The index without, and with only, every `every`-th identity in ascending order; the last one of fewer."""
        labels = self.labels()
        every = min(every, labels.max() + 1)
        held = labels % every == every - 1
        return self.take(~held), self.take(held)

    def labels(self) -> np.ndarray:
        """i32[n] identities as 0 .. number-1, in ascending order of the data set's numbers."""
        return np.unique(self.identity, return_inverse=True)[1].astype(np.int32)


class Trial(NamedTuple):
    """One evaluation draw: rows of an Index or of a features file. query: i32[q]; gallery: i32[g]."""

    query: np.ndarray
    gallery: np.ndarray


class Setting(NamedTuple):
    """One line of a results table: which trials are ranked, and by which rules.

    valid(query_identity i32[q], query_camera i32[q], gallery_identity i32[g], gallery_camera i32[g])
    gives bool[q g], False where the protocol skips a gallery image for a query.
    unique_identities: each identity counts once in the CMC (the SYSU-MM01 rule).
    """

    dataset: str
    protocol: str
    direction: str
    shots: str
    trials: list[Trial]
    valid: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    unique_identities: bool
