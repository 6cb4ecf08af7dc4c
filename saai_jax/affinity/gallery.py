"""An index of gallery images to search by AIM: built once, saved, changed, and searched by any number of queries."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int
from scipy.sparse import csr_array

from saai_jax.affinity import graph, storage, tiles
from saai_jax.affinity.checks import Rows, checked, choice, neighbour_counts
from saai_jax.affinity.cosine import Precision, unit_rows
from saai_jax.affinity.graph import Lists
from saai_jax.affinity.mesh import AXIS, gallery_mesh, place
from saai_jax.affinity.nearest import Nearest
from saai_jax.log import progress

TILE_BYTES = 1 << 27  # of one tile x gallery matrix; a few of them exist at a time
LONG = 1 << 34  # multiplications after which a bar is worth its line


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Gallery images and their affinities; `add`, `remove` and `subset` give a new one and leave this as it is.

    embedding: unit rows. lists: every image's nearest images. k1, k2, variant: as in `aim`; a gallery smaller than
    k1 or k2 uses its size. Holds embedding and lists, and per image up to k1 k2 entries of 8 bytes once searched.
    """

    embedding: Float[np.ndarray, "n d"]
    lists: Lists
    k1: int
    k2: int
    variant: Literal["released", "paper"]
    precision: Precision
    mesh: Mesh

    @classmethod
    def build(
        cls,
        embedding: Float[Rows, "n d"],
        *,
        k1: int,
        k2: int,
        variant: Literal["released", "paper"] = "released",
        precision: Precision = "highest",
        spare: int = 0,
        mesh: Mesh | None = None,
    ) -> Gallery:
        """Lists every image's neighbours; features of any scale, rows of 0 allowed.

        precision: "fast" chooses candidates in bf16 and scores them again in float32: measure by `agreement` what
        that does to your rankings. spare: neighbours listed beyond those that AIM needs, so that `subset` and
        `remove` find what they need in the lists; without, they compute most rows anew. mesh: where the gallery is
        spread, one device by default. Raises ValueError for an empty gallery, a row that is not finite and k1 or k2
        that are no positive integers; warns if they exceed the gallery.
        """
        choice("variant", variant, ("released", "paper"))
        choice("precision", precision, ("highest", "fast"))
        rows = unit_rows(checked(embedding, "gallery"))
        neighbour_counts(len(rows), k1=k1, k2=k2)
        empty = Lists(np.zeros((len(rows), 0), np.float32), np.zeros((len(rows), 0), np.int32))
        new = cls(rows, empty, int(k1), int(k2), variant, precision, mesh or gallery_mesh(jax.local_devices()[:1]))
        return dataclasses.replace(new, lists=new._listed(rows, min(len(rows), max(k1, k2) + 1 + spare)))

    def __len__(self) -> int:
        return len(self.embedding)

    def search(self, query: Float[Rows, "q d"], top: int) -> Nearest:
        """The `top` nearest gallery images of every query, whatever other queries come with it.

        Raises ValueError for queries of another length or not finite; warns if top exceeds the gallery.
        """
        top = neighbour_counts(len(self), top=top)["top"]
        found = self._run(self._units(query), tiles.nearest, top=top)
        if not found:
            return Nearest(np.zeros((0, top), np.int32), np.zeros((0, top), np.float32))
        return Nearest(*(np.concatenate(x) for x in zip(*found, strict=True)))

    def distances(self, query: Float[Rows, "q d"]) -> Float[np.ndarray, "q n"]:
        """AIM distances to all gallery images, as `aim` gives them. Raises as `search`."""
        found = [distance[:, : len(self)] for (distance,) in self._run(self._units(query), tiles.whole)]
        return np.concatenate(found) if found else np.zeros((0, len(self)), np.float32)

    def revise(self, affinity: Float[Array, "q n"], width: int = 0) -> Float[Array, "q n"]:
        """`distances` from the queries' cosine similarities with the gallery's images, without a copy on the host.

        width: similarities of a query that are looked at first; more if duplicates tie with the k1-th. Raises
        ValueError for a gallery that lies on several devices.
        """
        if self.mesh.size > 1:
            raise ValueError(f"the gallery lies on {self.mesh.size} devices, expected one")
        k1, width = min(self.k1, len(self)), min(len(self), width or self.k1 + 1)
        if len(affinity) > 1 and len(affinity) > self._countable(width):
            half = len(affinity) // 2
            return jnp.concatenate([self.revise(part, width) for part in (affinity[:half], affinity[half:])])
        run = tiles.over(self.mesh, tiles.given, width=width, k1=k1, variant=self.variant)
        distance, cut = run(affinity, np.int32(len(self)), self._spread)
        return self.revise(affinity, 4 * width) if cut else distance

    def add(self, embedding: Float[Rows, "m d"]) -> Gallery:
        """The gallery with more images at its end, as if all had been built together. Raises as `build`."""
        rows = unit_rows(checked(embedding, "gallery", self.embedding.shape[1]))
        if not len(rows):
            return self
        whole = dataclasses.replace(self, embedding=np.concatenate([self.embedding, rows]))
        spare = self.lists.index.shape[1] - min(len(self), max(self.k1, self.k2) + 1)
        width = min(len(whole), max(self.k1, self.k2) + 1 + spare)
        newest = dataclasses.replace(self, embedding=rows)
        seen = newest._listed(self.embedding, min(len(rows), width))
        seen = Lists(seen.value, seen.index + np.int32(len(self)))
        old, new = graph.merged(self.lists, seen, width), whole._listed(rows, width)
        return dataclasses.replace(whole, lists=Lists(*(np.concatenate(x) for x in zip(old, new, strict=True))))

    def remove(self, rows: Int[np.ndarray, r]) -> Gallery:
        """The gallery without some images, the others in their order. Raises as `subset`."""
        gone = self._rows(rows)
        return self.subset(np.setdiff1d(np.arange(len(self)), gone))

    def subset(self, rows: Int[np.ndarray, m]) -> Gallery:
        """The gallery of these images alone, in this order, as if built of them, without what is already computed.

        Raises ValueError for rows that the gallery does not have, repeated ones, and none.
        """
        rows = self._rows(rows)
        if not len(rows):
            raise ValueError("the gallery is empty")
        if len(np.unique(rows)) != len(rows):
            raise ValueError("rows of a subset are repeated, expected every one once")
        small = dataclasses.replace(self, embedding=self.embedding[rows])
        need = min(len(rows), max(self.k1, self.k2) + 1)
        lists, short = graph.narrowed(self.lists, rows, need)
        if len(short):
            anew = small._listed(small.embedding[short], need)
            lists.value[short], lists.index[short] = anew
        return dataclasses.replace(small, lists=lists)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the gallery; a reader of `folder` sees the old or the new. Raises StorageError for a foreign one."""
        about = {"k1": self.k1, "k2": self.k2, "variant": self.variant, "precision": self.precision}
        m = self._factor
        arrays = {"embedding": self.embedding, "value": self.lists.value, "index": self.lists.index}
        storage.save(folder, about, arrays | {"begin": m.indptr, "column": m.indices, "weight": m.data})

    @classmethod
    def load(cls, folder: str | os.PathLike, mesh: Mesh | None = None) -> Gallery:
        """A saved gallery, its arrays memory-mapped. Raises StorageError for a damaged or foreign folder."""
        about, arrays = storage.load(folder)
        lists = Lists(arrays["value"], arrays["index"])
        loaded = cls(arrays["embedding"], lists, **about, mesh=mesh or gallery_mesh(jax.local_devices()[:1]))
        entries = arrays["weight"], arrays["column"], arrays["begin"]
        loaded.__dict__["_factor"] = csr_array(entries, shape=(len(loaded), len(loaded)))  # what the property caches
        return loaded

    def _rows(self, rows) -> Int[np.ndarray, r]:
        rows = np.asarray(rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise ValueError(f"rows are {rows.dtype}{list(rows.shape)}, expected a list of integers")
        rows = rows.astype(np.int64)
        if wrong := rows[(rows < 0) | (rows >= len(self))].tolist():
            raise ValueError(f"row {wrong[0]} is not in the gallery of {len(self)} images")
        return rows

    @functools.cached_property
    def _placed(self) -> jax.Array:
        """The embedding on the devices, filled up with rows of 0."""
        fill = ((0, self._filled - len(self)), (0, 0))
        return place(np.pad(self.embedding, fill), NamedSharding(self.mesh, jax.P(AXIS)))

    @property
    def _filled(self) -> int:
        """Rows on the devices, as many on each; few different numbers, so that little is compiled."""
        return graph.rounded(-(-len(self) // self.mesh.size)) * self.mesh.size

    @functools.cached_property
    def _factor(self) -> Any:
        """M of d* = kept M (Eq. 9), sparse, on the host."""
        k1, k2 = min(self.k1, len(self)), min(self.k2, len(self))
        rows = graph.tied(self.lists, k1)
        affinity = self._affinity(self.embedding[rows]) if len(rows) else np.zeros((0, len(self)), np.float32)
        kept = graph.removed(self.lists, k1, rows, affinity)
        return graph.factor(kept, np.ascontiguousarray(self.lists.index[:, :k2]), self.variant)

    @functools.cached_property
    def _spread(self) -> tiles.Spread:
        m = self._filled
        begin, column, weight = graph.parts(self._factor, self.mesh.size, m // self.mesh.size)
        begin = np.pad(begin, ((0, 0), (0, m - len(self))), mode="edge")
        own = NamedSharding(self.mesh, jax.P(AXIS))
        return tiles.Spread(place(begin, own), place(column, own), place(weight, own))

    def _tiles(self, rows: Float[np.ndarray, "r d"], size: int, description: str):
        """Tiles of rows on all devices: the first one's number, the rows filled up with 0, how many are real."""
        starts = range(0, len(rows), size)
        if len(rows) * len(self) * rows.shape[1] > LONG:
            starts = progress(starts, total=len(starts), description=description)
        everywhere = NamedSharding(self.mesh, jax.P())
        for start in starts:
            part = rows[start : start + size]
            # Of few sizes, and never one row alone, which is multiplied in another order.
            full = max(16, 1 << (len(part) - 1).bit_length())
            yield start, place(np.pad(part, ((0, full - len(part)), (0, 0))), everywhere), len(part)

    def _size(self, gathered: int) -> int:
        """Rows of a tile: a power of two. gathered: gallery rows that "fast" gathers for each."""
        row = 4 * self._filled // self.mesh.size
        if self.precision == "fast":
            row += 4 * tiles.SPARE * gathered * self.embedding.shape[1]
        return min(512, max(16, 1 << (max(TILE_BYTES // row, 1).bit_length() - 1)))

    def _listed(self, rows: Float[np.ndarray, "r d"], width: int) -> Lists:
        """The `width` gallery images most like each of the rows."""
        run = tiles.over(self.mesh, tiles.neighbours, k=width, precision=self.precision)
        count, found = np.int32(len(self)), []
        for _, tile, real in self._tiles(rows, self._size(width), "gallery"):
            found.append(tuple(np.asarray(x)[:real] for x in run(tile, self._placed, count)))
        return Lists(*(np.concatenate(x) for x in zip(*found, strict=True)))

    def _affinity(self, rows: Float[np.ndarray, "r d"]) -> Float[np.ndarray, "r n"]:
        """Affinities of the rows with all gallery images, in float32."""
        run = tiles.over(self.mesh, tiles.rows, precision="highest")
        count, found = np.int32(len(self)), self._tiles(rows, self._size(0), "ties")
        return np.concatenate([np.asarray(run(t, self._placed, count))[:real, : len(self)] for _, t, real in found])

    def _countable(self, width: int) -> int:
        """Queries whose entries in M, if they look at `width` rows of it, can be counted in 32 bits."""
        return max(1, (1 << 31) // (width * max(1, int(np.diff(self._factor.indptr).max()))) - 1)

    def _units(self, query: Float[Rows, "q d"]) -> Float[np.ndarray, "q d"]:
        return unit_rows(checked(query, "query", self.embedding.shape[1]))

    def _run(self, query, kernel, width: int = 0, **how) -> list[tuple[np.ndarray, ...]]:
        """What the kernel gives for every tile of unit rows, which are scaled once: twice would be other bits."""
        k1, n, found = min(self.k1, len(self)), len(self), []
        width = min(n, width or k1 + 1)
        run = tiles.over(self.mesh, kernel, width=width, k1=k1, variant=self.variant, precision=self.precision, **how)
        size = min(self._size(max(width, how.get("top", 0))), self._countable(width))
        for start, tile, real in self._tiles(query, size, "queries"):
            *result, cut = run(tile, self._placed, np.int32(n), self._spread)
            if cut:
                found += self._run(query[start : start + real], kernel, 4 * width, **how)
            else:
                found.append(tuple(np.asarray(x)[:real] for x in result))
        return found
