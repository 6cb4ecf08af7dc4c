"""The report of a run as one HTML page that asks for no other file, usable by keyboard, by screen reader, on paper.

page.html.jinja is its layout and escapes everything that comes from here; page.css is its look.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from saai_jax.features.store import Features
from saai_jax.files import atomic_write
from saai_jax.ranking import evaluate, results
from saai_jax.report import charts, lists, pairs, projection
from saai_jax.report.correspondence import Aligned, described, strongest
from saai_jax.report.lists import NAMES, Ranked
from saai_jax.report.pictures import (
    LARGE,
    Pictures,
    aligned_overlays,
    attention_maps,
    coattention_maps,
    connected,
    correspondences,
    jpeg,
    overlay,
    thumbnails,
)

HERE = Path(__file__).parent
MODALITIES = {0: "visible", 1: "infrared"}
HEIGHT, SMALL = 160, 72  # pixels of pictures in the page: of a result, and of what moved it
TEMPLATES = Environment(
    loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters["base64"] = lambda content: base64.b64encode(content).decode()


def write_page(
    file: str | Path,
    document: Mapping[str, Any],
    images: Features,
    trial: lists.Trial,
    valid: Bool[np.ndarray, "q g"],
    methods: Mapping[str, tuple[evaluate.Distance, Mapping[str, Any]]],
    *,
    title: str,
    setting: str,
    unique_identities: bool,
    pictures: Pictures | None = None,
    shown: Int[np.ndarray, k] | None = None,
    attention: Float[np.ndarray, "k p r c"] | None = None,
    mapped: Int[np.ndarray, m] | None = None,
    feature: Float[np.ndarray, "m d"] | None = None,
    couples: Int[np.ndarray, "c 2"] | tuple[()] = (),
    aligned: Sequence[Aligned] = (),
) -> None:
    """Writes one page that needs no other file, and each of its figures as PNG and SVG into figures/ beside it.

    document: what `results.read` gives. trial, valid, unique_identities: one trial and its rules, said in words by
    `setting`, whose lists are shown; methods: name -> (distance, its parameters), "aim" with those of `affinity.aim`.
    shown: its queries to show, by default a few. pictures: of rows of the features, None if only features are known.
    attention: the maps of the rows `shown` that the network shows a person. mapped: images in the t-SNE maps, by
    default of a few identities; feature: their features before the neck, if known; both as `pictures.apply` makes them.
    couples: rows of queries and of true matches, whose images are `aligned`.
    Raises ValueError for shapes that do not match, and as the distances and `rank_metrics` do.
    """
    file, (query, gallery) = Path(file), trial
    folder = file.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    shown = lists.examples(images.identity, query, gallery) if shown is None else shown
    mapped = projection.people(images.identity, images.modality) if mapped is None else mapped
    if not methods or not len(shown):
        raise ValueError("a report needs at least one method and one query to show")
    for name, array, rows in (
        ("attention", attention, shown),
        ("feature", feature, mapped),
        ("aligned", aligned, couples),
    ):
        if array is not None and len(array) != len(rows):
            raise ValueError(f"{name} has {len(array)} rows, expected {len(rows)}")
    ranked = {
        name: lists.ranked(images, trial, valid, shown, *how, unique_identities=unique_identities)
        for name, how in methods.items()
    }
    large = thumbnails(pictures, np.concatenate([shown, *(of.row.ravel() for of in ranked.values())]), HEIGHT)
    moves = lists.moves(images, trial, valid, shown, ranked["aim"]) if "aim" in ranked else None
    small = thumbnails(pictures, np.union1d(ranked["aim"].row, moves.row), SMALL) if moves else {}
    if pictures is not None:
        charts.save(lists.figure(pictures, shown, ranked), folder, "ranked")
    compared = np.flatnonzero(np.isin(images.identity, images.identity[query]))
    about_mapped = f"{len(mapped)} images of {len(np.unique(images.identity[mapped]))} identities"
    rows = document["rows"]
    made = {"command": document.get("command"), "commit": document.get("commit")} | (document.get("versions") or {})
    style = (HERE / "page.css").read_text(encoding="utf-8")
    text = TEMPLATES.get_template("page.html.jinja").render(
        title=title,
        setting=setting,
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        images=len(images.path),
        identities=len(np.unique(images.identity)),
        headings={key: results.HEADINGS[key] for key in ("rank1", "map", "rank5", "rank10", "rank20", "minp")},
        rows_by_setting=[(name, list(of)) for name, of in itertools.groupby(rows, key=_counted_setting)],
        intervals=any(row.get("interval") for row in rows),
        curves=list(_curves(rows, ranked, setting, folder)),
        compared=len(compared),
        distances=list(_distances(images, compared, folder)),
        mapped=about_mapped,
        maps=list(_maps(images, mapped, feature, about_mapped, folder)),
        before_is_known=feature is not None,
        pictured=pictures is not None,
        names=NAMES,
        shown=shown,
        ranked=ranked,
        moves=moves,
        large=functools.partial(_picture, images, large),
        small=functools.partial(_picture, images, small),
        attention=_attention(images, shown, attention, pictures, folder),
        correspondences=_correspondences(images, couples, aligned, pictures, folder),
        made={key: " ".join(value) if isinstance(value, list) else value for key, value in made.items() if value},
    )
    # A file name that is no Unicode has no other way into the page.
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def _setting_of(row: Mapping[str, Any]) -> str:
    """What a row's queries and galleries are, in words."""
    return " · ".join([row["dataset"], *results.labelled(row).split(", ")])


def _counted_setting(row: Mapping[str, Any]) -> str:
    return f"{_setting_of(row)} · {results.counted(row)}"


def _chart(figure: Figure, folder: Path, name: str, alt: str, caption: str) -> dict[str, str]:
    """name: of the files in figures/; alt: what the chart shows, for who does not see it."""
    return {"name": name, "svg": charts.save(figure, folder, name), "alt": alt, "caption": caption}


def _curves(
    rows: Sequence[Mapping[str, Any]], ranked: Mapping[str, Ranked], setting: str, folder: Path
) -> Iterable[dict[str, str]]:
    """CMC charts of the rows that have a `cmc`, percent by rank; if none has, of the trial that is shown."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        if row.get("cmc") is not None:
            group = found.setdefault(_setting_of(row), {})
            name = NAMES.get(str(row["inference"]), str(row["inference"]))
            parameters = ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
            group[name if name not in group else f"{name} ({parameters})"] = np.asarray(row["cmc"])[:50]
    found = found or {setting: {NAMES.get(name, name): of.curve for name, of in ranked.items()}}
    for number, (title, group) in enumerate(found.items(), 1):
        text = "; ".join(f"{k}: {c[0]:.1f} % at rank 1, {c[-1]:.1f} % at rank {len(c)}" for k, c in group.items())
        yield _chart(charts.cmc_curves(group, title), folder, f"cmc-{number}", f"CMC curves, {title}. {text}", title)


def _distances(images: Features, rows: Int[np.ndarray, n], folder: Path) -> Iterable[dict[str, str]]:
    """Histograms of cosine distances between the images of `rows`, within each modality and across them."""
    visible, infrared = (rows[images.modality[rows] == m] for m in (0, 1))
    for name, title, sides in (
        ("distances-visible", "within visible", [visible]),
        ("distances-infrared", "within infrared", [infrared]),
        ("distances-across", "visible to infrared", [visible, infrared]),
    ):
        found = pairs.cosine_distances(images.embedding, images.identity, *sides)
        if not len(found.genuine) and not len(found.impostor):
            continue
        parts = []
        for kind, values, total in zip(("genuine", "impostor"), found[:2], found[2:], strict=True):
            median = f", median {np.median(values):.3f}" if len(values) else ""
            drawn = f"{len(values):,} of {total:,}" if len(values) < total else f"all {total:,}"
            parts.append(f"{drawn} {kind} pairs{median}")
        text, figure = f"{title}: {'; '.join(parts)}.", charts.distance_histogram(found, title)
        yield _chart(figure, folder, name, f"Histogram of cosine distances, {text}", text.capitalize())


def _maps(
    images: Features, rows: Int[np.ndarray, m], before: Float[np.ndarray, "m d"] | None, about: str, folder: Path
) -> Iterable[dict[str, str]]:
    """t-SNE of the images of `rows`, before the neck (None: not known) and after it; nothing of too few images."""
    for name, feature in (("before", before), ("after", images.embedding[rows])):
        if feature is not None and len(rows) >= projection.LEAST:
            points, title = projection.tsne(feature), f"{name} the neck"
            figure = charts.feature_map(points, images.identity[rows], images.modality[rows], title)
            alt = (
                f"t-SNE map of the features {title}: {about}, coloured by identity; circles visible, triangles infrared"
            )
            yield _chart(figure, folder, f"tsne-{name}", alt, f"Features {title}: {about}.")


def _picture(images: Features, jpegs: Mapping[int, bytes], row: int) -> dict[str, Any]:
    """Who an image shows and how it was taken, its path, and a JPEG, None where there are only features."""
    words = f"identity {images.identity[row]}, camera {images.camera[row]}, {MODALITIES[int(images.modality[row])]}"
    return {"words": words, "path": str(images.path[row]), "jpeg": jpegs.get(int(row))}


def _attention(
    images: Features, shown: Int[np.ndarray, k], attention: np.ndarray | None, pictures: Pictures | None, folder: Path
) -> list[dict[str, Any]]:
    """The pictures of the queries, each with its attention maps laid over it; none if either is not known."""
    if attention is None or pictures is None:
        return []
    loaded, large = pictures(shown), thumbnails(pictures, shown, HEIGHT)
    made = [_picture(images, large, row) for row in shown]
    charts.save(attention_maps(loaded, attention, [picture["words"] for picture in made]), folder, "attention")
    drawn = [[overlay(image, part) for part in maps] for image, maps in zip(loaded, attention, strict=True)]
    overlays = [[{"jpeg": jpeg(over, HEIGHT), "range": span} for over, span in maps] for maps in drawn]
    return [{"picture": picture, "maps": maps} for picture, maps in zip(made, overlays, strict=True)]


def _correspondences(
    images: Features,
    couples: Int[np.ndarray, "c 2"] | tuple[()],
    aligned: Sequence[Aligned],
    pictures: Pictures | None,
    folder: Path,
) -> list[dict[str, Any]]:
    """Each query and its true match: masks and co-attention laid over them, and lines between what corresponds."""
    if not aligned or pictures is None:
        return []
    loaded, shape = pictures(np.asarray(couples)), aligned[0].mask.shape[1:]
    made = [[_picture(images, {}, row) for row in couple] for couple in couples]
    matches = [strongest(of.probability[0]) for of in aligned]
    names = [(query["words"], match["words"]) for query, match in made]
    untitled = [""] * len(made)
    charts.save(coattention_maps(loaded, aligned, names, untitled), folder, "coattention")
    charts.save(correspondences(loaded, matches, shape, names, untitled), folder, "correspondences")
    shown = []
    for (query, match), pair, of, found in zip(made, loaded, aligned, matches, strict=True):
        whose = [("query", query)] * 2 + [("match", match)] * 2
        maps = [
            {**picture, "jpeg": jpeg(over, HEIGHT), "name": f"{side}: {name}"}
            for (side, picture), (over, name) in zip(whose, aligned_overlays(pair, of), strict=True)
        ]
        lines = {"jpeg": jpeg(connected(pair, found, shape), LARGE), "said": described(found)}
        shown.append({"query": query["words"], "match": match["words"], "maps": maps, "lines": lines})
    return shown
