"""One data set on disk with everything that decides how it is read; the only place that knows which reader is whose."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np
from absl import logging

from input_pipeline import doctor, records, synthetic
from input_pipeline.batches import Batch, Decoded, eval_batches, train_batches
from input_pipeline.images import Folder, refuse_unreadable
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial
from input_pipeline.sampling import incomplete_identities


@functools.cache  # a run reads several splits; the set is looked at once
def _draw(root: str, layout: str, size: str, seed: int) -> None:
    synthetic.write(root, layout=layout, size=size, seed=seed)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set and its options; the fields are those of config.data, documented in configs/common.py."""

    dataset: str
    root: str
    split_dir: str
    published: bool
    fold: int
    synthetic: str
    synthetic_seed: int
    validation: bool
    skip_incomplete: bool
    packed: str
    height: int
    width: int
    threads: int
    workers: int

    def __post_init__(self):
        if self.dataset not in doctor.DATASETS:
            raise DataError(f"dataset is {self.dataset!r}, expected one of {', '.join(doctor.DATASETS)}")

    @property
    def reader(self):
        """The module that reads this data set."""
        return doctor.DATASETS[self.dataset]

    @property
    def reading(self) -> dict:
        """What the reader's read_index takes beside root and split."""
        own = {"sysu": {"split_dir": self.split_dir or None}, "regdb": {"fold": self.fold}, "llcm": {}}
        return {"published": self.published, **own[self.dataset]}

    def read(self, split: str) -> Index:
        """A split as the reader names it; a synthetic set is drawn first."""
        self.draw()
        return self.reader.read_index(self.root, split, **self.reading)

    def draw(self) -> None:
        """Writes the synthetic set this source is, if it is one and not there yet."""
        if self.synthetic:
            _draw(self.root, self.dataset, self.synthetic, self.synthetic_seed)

    def training(self, each: int) -> tuple[Index, Index | None]:
        """The training rows, and those of the identities held out for validation or None.

        SYSU-MM01 has its own validation identities, of other sets every tenth training identity is taken. Identities
        with fewer than `each` images of a modality are left out, with a warning, if skip_incomplete says so.
        """
        validation = None
        if self.dataset == "sysu":
            rows = self.read("train" if self.validation else "trainval")
            validation = self.read("val") if self.validation else None
        else:
            rows = self.read("train")
            if self.validation:
                rows, validation = rows.hold_out(10)
        few = incomplete_identities(rows.identity, rows.modality, each) if self.skip_incomplete else []
        if few:
            logging.warning(
                "%d identities with fewer than %d images of a modality are left out: %s", len(few), each, few
            )
            rows = rows.take(~np.isin(rows.identity, few))
        return rows, validation

    def splits(self, each: int) -> dict[str, Index]:
        """Every split a run reads, by the name its pack has: train, validation if there is one, test.

        each: images of a modality that the sampler draws of an identity, see `training`.
        """
        train, validation = self.training(each)
        found = {"train": train, "validation": validation, "test": self.read("test")}
        return {name: index for name, index in found.items() if index is not None}

    def verify(self, splits: dict[str, Index]) -> None:
        """Decodes every picture once, before hours are spent; a pack holds only pictures that could be.

        Raises DataError naming every picture of a split that cannot be decoded.
        """
        for name, index in {} if self.packed else splits.items():
            refuse_unreadable(Folder(self.root, index), name, self.threads)

    def images(self, index: Index, split: str) -> Folder | records.Packed:
        """The encoded pictures of a split, from their pack if `packed` names one, else from the folder."""
        if self.packed:
            return records.Packed(self.packed, self.pack_name, split, index, self.root)
        return Folder(self.root, index)

    def pack(self, index: Index, split: str, folder: str) -> str:
        """Packs a split's image files into `folder`, to be read from there with `packed`."""
        return records.pack(Folder(self.root, index), index, folder, self.pack_name, split)

    @property
    def pack_name(self) -> str:
        """Each fold of RegDB is a pack of its own."""
        return f"{self.dataset}-{self.fold}" if self.dataset == "regdb" else self.dataset

    def train_batches(self, index: Index, rows: np.ndarray) -> Iterator[Batch]:
        """The batches of a plan's rows i32[steps b]."""
        size = {"height": self.height, "width": self.width, "threads": self.threads, "workers": self.workers}
        return train_batches(self.images(index, "train"), index, rows, **size)

    def eval_batches(self, index: Index, split: str, batch: int) -> Iterator[Batch]:
        """Every picture of a split once, in order."""
        size = {"height": self.height, "width": self.width, "threads": self.threads, "workers": self.workers}
        return eval_batches(self.images(index, split), index, batch=batch, **size)

    def pictures(self, index: Index, split: str, rows: np.ndarray) -> np.ndarray:
        """u8[* h w 3], the pictures of rows i32[*] of a split."""
        decoded = Decoded(self.images(index, split), index, rows, self.height, self.width)
        return np.stack([decoded[i]["image"] for i in range(len(decoded))]).reshape(
            *rows.shape, self.height, self.width, 3
        )

    def settings(self, index: Index, search: str, shots: str) -> list[Setting]:
        """The settings of the protocol; of SYSU-MM01 those of the comma-separated searches and shots.

        search: all, indoor; shots: single, multi. Raises ValueError for other words.
        """
        if self.dataset != "sysu":
            return self.reader.settings(index, published=self.published)
        searches, numbers = search.split(","), shots.split(",")
        if not set(searches) <= {"all", "indoor"} or not set(numbers) <= {"single", "multi"}:
            raise ValueError(
                f"search={search!r}, shots={shots!r}; expected words of 'all,indoor' and of 'single,multi'"
            )
        split_dir = self.split_dir or os.path.join(self.root, "exp")
        every = self.reader.settings(index, split_dir, published=self.published)
        return [s for s in every if s.protocol.split("-")[-1] in searches and s.shots in numbers]

    def validation_setting(self, index: Index) -> Setting:
        """All infrared pictures against all visible ones, under the data set's rule for skipped gallery images."""
        query, gallery = (np.flatnonzero(index.modality == m).astype(np.int32) for m in (INFRARED, VISIBLE))
        trial = Trial(query, gallery)
        return Setting(self.dataset, "validation", "infrared-to-visible", "-", [trial], self.reader.valid, True)

    def examine(self) -> list[str]:
        """Every problem of the data set on disk, one a line."""
        self.draw()
        return doctor.examine(self.dataset, self.root, **self.reading)
