"""One data set on disk with everything that decides how it is read; the only place that knows which reader is whose."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Generator

import numpy as np
from absl import logging

from input_pipeline import custom, doctor, llcm, market, protocols, records, regdb, synthetic, sysu, sysu_random
from input_pipeline.batches import Batch, decoded, eval_batches, train_batches
from input_pipeline.images import Folder, Size, raise_all, refuse_unreadable
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial
from input_pipeline.sampling import unusable

READERS = doctor.DATASETS


@functools.cache  # a run reads several splits; the set is looked at once
def _draw(root: str, layout: str, size: str, seed: int) -> None:
    synthetic.write(root, layout=layout, size=size, seed=seed)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set and its options; the fields are those of config.data, documented in configs/common.py.

    The data set "custom" is a features file alone: there is nothing to read, and only the protocol custom.
    """

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
    query_list: str = ""
    gallery_list: str = ""
    rule: str = "same-camera"
    resized: str = ""
    resample: str = "bilinear"

    def __post_init__(self):
        _ = self.size  # refuses a filter that is not known
        if self.dataset not in protocols.KNOWN:
            raise DataError(f"dataset is {self.dataset!r}, expected one of {', '.join(protocols.KNOWN)}")

    @property
    def size(self) -> Size:
        return Size(self.height, self.width, self.resample)

    @property
    def reader(self):
        """The module that reads this data set. DataError: it is "custom"."""
        if self.dataset not in READERS:
            raise DataError(f"the data set {self.dataset!r} has no images of its own; rank a features file of them")
        return READERS[self.dataset]

    @property
    def reading(self) -> dict:
        """What the reader's read_index takes beside root and split."""
        own = {"sysu": {"split_dir": self.split_dir or None}, "regdb": {"fold": self.fold}}
        own |= {name: {"dataset": name} for name in market.DATASETS}
        return {"published": self.published, **own.get(self.dataset, {})}

    def read(self, split: str) -> Index:
        """A split as the reader names it; a synthetic set is drawn first."""
        self.draw()
        if problem := doctor.misplaced(self.root, self.reader):
            raise DataError(problem)
        return self.reader.read_index(self.root, split, **self.reading)

    def draw(self) -> None:
        """Writes the synthetic set this source is, if it is one and not there yet."""
        if self.synthetic:
            _draw(self.root, self.dataset, self.synthetic, self.synthetic_seed)

    def training(self, sampler: str, images: int) -> tuple[Index, Index | None]:
        """The training rows, and those of the identities held out for validation or None.

        SYSU-MM01 has its own validation identities, of other sets every tenth training identity is taken. Identities
        of which the sampler cannot draw `images` for a batch are left out, with a warning, if skip_incomplete says so.
        Raises ValueError for a sampler that is not known.
        """
        validation = None
        if self.dataset == "sysu":
            rows = self.read("train" if self.validation else "trainval")
            validation = self.read("val") if self.validation else None
        else:
            rows = self.read("train")
            if self.validation:
                rows, validation = rows.hold_out(10)
        few = unusable(rows, sampler, images)
        if few and self.skip_incomplete:
            logging.warning("%d identities with too little for the sampler %s are left out: %s", len(few), sampler, few)
            rows = rows.take(~np.isin(rows.identity, few))
        return rows, validation

    def splits(self, sampler: str, images: int) -> dict[str, Index]:
        """Every split a run reads, by the name its pack has: train, validation if there is one, test.

        sampler, images: as in `training`. DataError: an identity in two.
        """
        train, validation = self.training(sampler, images)
        every = {"train": train, "validation": validation, "test": self.read("test")}
        found = {name: index for name, index in every.items() if index is not None}
        raise_all([f"{self.root}: {line}" for line in doctor.overlaps(found)])
        return found

    def verify(self, splits: dict[str, Index]) -> None:
        """Decodes every picture once, before hours are spent; what was prepared holds only pictures that could be.

        Raises DataError naming every picture of a split that cannot be decoded.
        """
        for name, index in {} if self.packed or self.resized else splits.items():
            refuse_unreadable(Folder(self.root, index), name, self.threads)

    def images(self, index: Index, split: str) -> Folder | records.Packed | records.Resized:
        """The pictures of a split: prepared pixels if `resized` names some, or a pack if `packed`, else the folder."""
        if self.resized:
            return records.Resized(self.resized, self.pack_name, split, index, self.root, self.size)
        if self.packed:
            return records.Packed(self.packed, self.pack_name, split, index, self.root)
        return Folder(self.root, index)

    def pack(self, index: Index, split: str, folder: str) -> str:
        """Packs a split's image files into `folder`, to be read from there with `packed`."""
        return records.pack(Folder(self.root, index), index, folder, self.pack_name, split)

    def store_resized(self, index: Index, split: str, folder: str) -> str:
        """Decodes and resizes a split into `folder`, to be read from there with `resized`."""
        return records.store_resized(Folder(self.root, index), index, folder, self.pack_name, split, self.size)

    @property
    def pack_name(self) -> str:
        """Each fold of RegDB is a pack of its own."""
        return f"{self.dataset}-{self.fold}" if self.dataset == "regdb" else self.dataset

    def train_batches(self, index: Index, rows: np.ndarray, host: int = 0, hosts: int = 1) -> Generator[Batch]:
        """The batches of a plan's rows i32[steps b], or one host's part of each."""
        how = {"size": self.size, "threads": self.threads, "workers": self.workers, "host": host, "hosts": hosts}
        return train_batches(self.images(index, "train"), index, rows, **how)

    def eval_batches(self, index: Index, split: str, batch: int, rows: slice = slice(None)) -> Generator[Batch]:
        """Every picture of a split, or of some rows of it, once, in order."""
        how = {"size": self.size, "threads": self.threads, "workers": self.workers, "batch": batch, "rows": rows}
        return eval_batches(self.images(index, split), index, **how)

    def pictures(self, index: Index, split: str, rows: np.ndarray) -> np.ndarray:
        """u8[* h w 3], the pictures of rows i32[*] of a split."""
        return decoded(self.images(index, split), index, rows, self.size)

    def settings(self, index: Index, search: str, shots: str, protocol: str = "") -> list[Setting]:
        """The settings of the comma-separated protocols, or of the data set's default ones if none is named.

        search (all, indoor) and shots (single, multi) choose among those of SYSU-MM01; a protocol that they leave
        nothing of is named in a warning. index: rows of the test split, say those of a features file; of
        regdb-ten-folds the ten folds' one after the other. Raises ValueError for other words, an unknown protocol or
        one of another data set, and if nothing is left; DataError as the protocol's own `settings`.
        """
        result, names = [], protocols.named(self.dataset, protocol)
        if variants := "".join(name.removeprefix("llcm-") for name in names if name.startswith("llcm-")):
            # All at once: what is doubtful about the index is said once.
            names = (f"llcm-{variants}", *(name for name in names if not name.startswith("llcm-")))
        for name in names:
            if not name.startswith("sysu-"):
                result += self._settings_of(name, index)
                continue
            searches, numbers = search.split(","), shots.split(",")
            asked = f"search={search!r}, shots={shots!r}"
            if not set(searches) <= {"all", "indoor"} or not set(numbers) <= {"single", "multi"}:
                raise ValueError(f"{asked}; expected words of 'all,indoor' and of 'single,multi'")
            found = self._settings_of(name, index)
            chosen = [s for s in found if s.protocol.split("-")[-1] in searches and s.shots in numbers]
            if not chosen:
                nothing = f"{asked}: nothing is left of {name}, whose shots are {found[0].shots}"
                if names == (name,):
                    raise ValueError(nothing)
                logging.warning("%s", nothing)
            result += chosen
        return result

    def _settings_of(self, protocol: str, index: Index) -> list[Setting]:
        how = {"published": self.published}
        if protocol == "custom":
            return custom.settings(index, self.query_list, self.gallery_list, self.rule, dataset=self.dataset)
        if protocol == "sysu-official":
            lists = self.split_dir or os.path.join(self.root, "exp")
            if not os.path.isdir(lists):
                raise DataError(
                    f"{lists}: no such folder, expected test_id.txt and rand_perm_cam.mat: name theirs with "
                    f"--config.data.split_dir=DIR, or rank by --config.eval.protocol=sysu-random. {sysu.APPLY}"
                )
            return sysu.settings(index, lists, **how)
        if protocol == "sysu-random":
            return sysu_random.settings(index, **how)
        if protocol == "regdb-ten-folds":
            return regdb.ten_folds(index, **how)
        if protocol == "regdb":
            return regdb.settings(index, **how)
        if protocol.startswith("llcm-"):
            return llcm.settings(index, variants=protocol.removeprefix("llcm-"), **how)
        return market.settings(index, dataset=protocol, **how)

    def validation_setting(self, index: Index) -> Setting:
        """All infrared pictures against all visible ones, under the data set's rule for skipped gallery images.

        Of a data set of visible pictures: the first of each identity and camera against all.
        """
        if self.dataset in market.DATASETS:
            return market.validation_setting(index, self.dataset)
        query, gallery = (np.flatnonzero(index.modality == m).astype(np.int32) for m in (INFRARED, VISIBLE))
        trial = Trial(query, gallery)
        return Setting(self.dataset, "validation", "infrared-to-visible", "-", [trial], self.reader.valid, True)

    def examine(self) -> list[str]:
        """Every problem of the data set on disk, one a line. Raises DataError for one that the doctor does not know."""
        if self.dataset not in doctor.DATASETS:
            raise DataError(f"the doctor examines {', '.join(doctor.DATASETS)}, not {self.dataset}")
        self.draw()
        return doctor.examine(self.dataset, self.root, **self.reading)
