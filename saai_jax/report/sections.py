"""The sections of a report, each from arrays: curves, histograms, maps, ranked lists, prototype maps."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from saai_jax.features.store import Features
from saai_jax.metrics import RankMetrics
from saai_jax.report import charts, page, pairs, projection
from saai_jax.report import pictures as plots

Pictures = Callable[[np.ndarray], np.ndarray]  # rows i32[*] -> u8[* h w 3]
NAMES = {"euclidean": "Euclidean", "sim": "SIM", "k_reciprocal": "k-reciprocal", "aim": "AIM"}
MODALITIES = {0: "visible", 1: "infrared"}
HEIGHT, SMALL = 160, 72  # pixels of pictures in the page: of a result, and of what moved it


class Ranked(NamedTuple):
    """The trial under one method; of the k chosen queries the first images.

    curve: the CMC in percent. row i[k 10]: rows of the features; distance f[k 10]; skipped bool[k 10].
    """

    parameters: Mapping[str, Any]
    metrics: RankMetrics
    curve: Float[np.ndarray, k]
    row: Int[np.ndarray, "k 10"]
    distance: Float[np.ndarray, "k 10"]
    skipped: Bool[np.ndarray, "k 10"]


class Moves(NamedTuple):
    """For AIM's results: place by cosine i[k 10], 0 if skipped; correction f[k 10]; rows i[k 10 t] and their terms."""

    place: Int[np.ndarray, "k 10"]
    correction: Float[np.ndarray, "k 10"]
    row: Int[np.ndarray, "k 10 t"]
    term: Float[np.ndarray, "k 10 t"]


def curves(rows: Sequence[Mapping[str, Any]], shown: Mapping[str, Ranked], setting: str, folder: Path) -> page.Section:
    """CMC charts of the rows that have a `cmc`, percent by rank; if none has, of the trial that is shown."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        if row.get("cmc") is not None:
            group, name = found.setdefault(page.setting_of(row), {}), _name(row["inference"])
            parameters = ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
            group[name if name not in group else f"{name} ({parameters})"] = np.asarray(row["cmc"])[:50]
    found = found or {setting: {_name(name): ranked.curve for name, ranked in shown.items()}}
    shown_charts = []
    for number, (title, group) in enumerate(found.items(), 1):
        text = "; ".join(f"{k}: {c[0]:.1f} % at rank 1, {c[-1]:.1f} % at rank {len(c)}" for k, c in group.items())
        svg = charts.save(charts.cmc_curves(group, title), folder, name := f"cmc-{number}")
        shown_charts.append(page.Chart(name, svg, f"CMC curves, {title}. {text}", title))
    words = "Share of the queries whose first true match is among the first images, by how many images are looked at."
    return page.Section("cmc", "CMC curves", [page.tag("p", words), page.charts(shown_charts)])


def distances(images: Features, rows: Int[np.ndarray, n], folder: Path) -> page.Section:
    """Histograms of cosine distances between the images of `rows`, within each modality and across them."""
    kinds = [rows[images.modality[rows] == m] for m in (0, 1)]
    shown_charts = []
    for name, title, sides in (
        ("distances-visible", "within visible", kinds[:1]),
        ("distances-infrared", "within infrared", kinds[1:]),
        ("distances-across", "visible to infrared", kinds),
    ):
        found = pairs.cosine_distances(images.embedding, images.identity, *sides)
        if not len(found.genuine) and not len(found.impostor):
            continue
        parts = []
        for kind, values, total in zip(("genuine", "impostor"), found[:2], found[2:], strict=True):
            median = f", median {np.median(values):.3f}" if len(values) else ""
            drawn = f"{len(values):,} of {total:,}" if len(values) < total else f"all {total:,}"
            parts.append(f"{drawn} {kind} pairs{median}")
        caption = f"{title}: {'; '.join(parts)}."
        svg = charts.save(charts.distance_histogram(found, title), folder, name)
        shown_charts.append(page.Chart(name, svg, f"Histogram of cosine distances, {caption}", caption.capitalize()))
    words = f"Cosine distances of pairs among the {len(rows):,} images of the queried identities. The less the two "
    words += "overlap, the better a threshold tells persons apart."
    return page.Section("distances", "Distances", [page.tag("p", words), page.charts(shown_charts)])


def maps(
    images: Features, rows: Int[np.ndarray, m], before: Float[np.ndarray, "m d"] | None, folder: Path
) -> page.Section:
    """t-SNE of the images of `rows`, before the neck (None: not known) and after it."""
    shown_charts, content = [], []
    identity, modality = images.identity[rows], images.modality[rows]
    about = f"{len(rows)} images of {len(np.unique(identity))} identities"
    if len(rows) < projection.LEAST:
        words = f"Not available: {about} are seen in both modalities, too few for a map."
        return page.Section("maps", "Maps of the features", [page.tag("p", words)])
    for name, title, feature in (
        ("tsne-before", "before the neck", before),
        ("tsne-after", "after the neck", images.embedding[rows]),
    ):
        if feature is None:
            content.append(page.tag("p", "Before the neck: not available for features that come from a file."))
            continue
        figure = charts.feature_map(projection.tsne(feature), identity, modality, title)
        svg = charts.save(figure, folder, name)
        alt = f"t-SNE map of the features {title}: {about}, coloured by identity; circles visible, triangles infrared"
        shown_charts.append(page.Chart(name, svg, alt, f"Features {title}: {about}."))
    words = "t-SNE: near points are alike by cosine. Distances between groups, and their sizes, mean nothing."
    return page.Section("maps", "Maps of the features", [page.tag("p", words), *content, page.charts(shown_charts)])


def lists(
    images: Features,
    query: Int[np.ndarray, k],
    place: Int[np.ndarray, k],
    methods: Mapping[str, Ranked],
    moves: Moves | None,
    pictures: Pictures | None,
    setting: str,
    folder: Path,
) -> page.Section:
    """The first images of the chosen queries under every method; `place` of a query is its row in the metrics."""
    rows = np.unique(np.concatenate([query, *(r.row.ravel() for r in methods.values())]))
    large = _thumbnails(pictures, rows, HEIGHT)
    small = _thumbnails(pictures, np.union1d(rows, moves.row.ravel()) if moves else rows[:0], SMALL)

    def picture(row: int, of: Mapping[int, bytes]) -> page.Picture:
        return page.Picture(str(images.path[row]), words_of(images, row), of.get(row))

    def kind(row: int, k: int, skipped: bool) -> str:
        return "skipped" if skipped else "right" if images.identity[row] == images.identity[query[k]] else "wrong"

    def method(k: int, name: str, r: Ranked) -> page.Method:
        ranks = np.where(r.skipped[k], 0, np.cumsum(~r.skipped[k]))
        results = [
            page.Result(
                picture(row, large), kind(row, k, skip), rank, [words_of(images, row), f"distance {distance:.3f}"]
            )
            for row, skip, rank, distance in zip(r.row[k], r.skipped[k], ranks, r.distance[k], strict=True)
        ]
        moved = _moved(k, results) if moves and name == "aim" else []
        about = ", ".join(f"{key}={value}" for key, value in r.parameters.items()) or "no parameters"
        if r.metrics.matched[place[k]]:
            about += f" · average precision {100 * r.metrics.average_precision[place[k]]:.1f} %"
            about += f", first true match at rank {r.metrics.rank[place[k]] + 1}"
        return page.Method(_name(name), about, results, moved)

    def _moved(k: int, results: Sequence[page.Result]) -> list[page.Moved]:
        assert moves is not None
        made = []
        for i, result in enumerate(results):
            by, whole = [], moves.correction[k, i]
            for row, term in zip(moves.row[k, i], moves.term[k, i], strict=True):
                share = f" ({100 * term / whole:.0f} %)" if whole > 0 else ""
                mark = page.MARKS["right" if images.identity[row] == images.identity[query[k]] else "wrong"][0]
                by.append((picture(row, small), f"{term:+.3f}{share} {mark} {words_of(images, row)}"))
            own = result._replace(picture=picture(methods["aim"].row[k, i], small))
            made.append(page.Moved(own, str(moves.place[k, i] or "–"), f"{whole:+.3f}", by))
        return made

    words = f"{setting}. Green and ✓: the same person; red and ✗: another; dashed and –: skipped by the protocol."
    content = [page.tag("p", words)]
    if "k_reciprocal" in methods:
        content.append(page.tag("p", "k-reciprocal looks at all queries at once, the other methods at one at a time."))
    if pictures is None:
        content.append(page.tag("p", "The pictures themselves are not available: images are shown by their paths."))
    else:
        stacked = [np.stack([getattr(r, key) for r in methods.values()]) for key in ("row", "skipped")]
        correct = images.identity[stacked[0]] == images.identity[query][:, None]
        drawn = pictures(query), pictures(stacked[0]), correct, stacked[1], list(map(_name, methods))
        for suffix in ("png", "svg"):
            plots.ranked_lists(folder / f"ranked.{suffix}", *drawn)
        content.append(page.tag("p", "Files: figures/ranked.png, figures/ranked.svg", class_="soft"))
    queries = [
        page.Query(picture(row, large), [method(k, name, r) for name, r in methods.items()])
        for k, row in enumerate(query)
    ]
    return page.Section("ranked", "Ranked lists", [*content, *page.ranked(queries)])


def prototypes(
    images: Features,
    query: Int[np.ndarray, k],
    attention: Float[np.ndarray, "k p r c"],
    pictures: Pictures,
    folder: Path,
) -> page.Section:
    """Where each prototype looks in the pictures of the chosen queries."""
    shown, people = pictures(query), []
    for row, image, parts in zip(query, shown, attention, strict=True):
        drawn = (plots.overlay(image, part) for part in parts)
        seen = [(_jpeg(over, HEIGHT), f"part {p}: {span}") for p, (over, span) in enumerate(drawn, 1)]
        people.append((page.Picture(str(images.path[row]), words_of(images, row), _jpeg(image, HEIGHT)), seen))
    for suffix in ("png", "svg"):
        plots.attention_maps(folder / f"prototypes.{suffix}", shown, attention, [words_of(images, r) for r in query])
    words = "From the lowest (dark blue) to the highest (yellow) attention of each map, whose range stands below it."
    files = page.tag("p", "Files: figures/prototypes.png, figures/prototypes.svg", class_="soft")
    return page.Section("prototypes", "Prototype maps", [page.tag("p", words), files, *page.prototype_maps(people)])


def words_of(images: Features, row: int) -> str:
    """Who an image shows, and how it was taken."""
    return f"identity {images.identity[row]}, camera {images.camera[row]}, {MODALITIES[int(images.modality[row])]}"


def _name(inference: str) -> str:
    return NAMES.get(inference, inference)


def _thumbnails(pictures: Pictures | None, rows: Int[np.ndarray, n], height: int) -> dict[int, bytes]:
    if pictures is None or not len(rows):
        return {}
    return {int(row): _jpeg(image, height) for row, image in zip(rows, pictures(rows), strict=True)}


def _jpeg(image: np.ndarray, height: int) -> bytes:
    shown, file = Image.fromarray(image), io.BytesIO()
    if shown.height > height:
        shown = shown.resize((max(1, shown.width * height // shown.height), height), Image.Resampling.LANCZOS)
    shown.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()
