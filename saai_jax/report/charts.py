"""Charts: losses and scores of a training, CMC curves, histograms of distances, maps of features; all are Figures."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saai_jax.files import atomic_write
from saai_jax.report.pairs import Distances

# Okabe and Ito's colours, apart for every kind of colour vision; yellow is left out, it is too faint on white
BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#777777", BLACK)
DASHES = ("-", "--", "-.", ":")
SIZE = (5.0, 4.0)  # inches: shown at the width of a phone, the text of a larger figure could not be read
POINTS = 400  # a curve of more is a smear: its neighbours are averaged
NO_TERMS = {"step", "kind", "epoch", "learning_rate", "gradient_norm", "loss"}  # of a training entry
SHAPES = {0: ("o", "visible"), 1: ("^", "infrared")}


def save(figure: Figure, folder: Path, name: str) -> str:
    """Writes folder/name.png and .svg, and gives the text of the latter; the same figure gives the same text."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", dpi=200, metadata={"Date": None})
    with atomic_write(folder / f"{name}.svg") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    with atomic_write(folder / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=200)
    return text.getvalue()


def training(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """The loss and its terms by step, validation rank-1 and mAP by epoch, of the entries of a metrics.jsonl."""
    train, validation = ([e for e in metrics if e["kind"] == kind] for kind in ("train", "validation"))
    terms = dict.fromkeys(key for entry in train for key in entry if key not in NO_TERMS)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, key in enumerate(["loss", *terms], -1):
        points = np.array([(entry["step"], entry[key]) for entry in train if key in entry], dtype=np.float64)
        if len(points):
            width = -(-len(points) // POINTS)
            step, loss = np.array([chunk.mean(0) for chunk in np.split(points, range(width, len(points), width))]).T
            colour = BLACK if key == "loss" else COLOURS[number % (len(COLOURS) - 1)]  # the last one is black
            label, wide = ("total", 2) if key == "loss" else (plain(key), 1.2)
            left.plot(step, loss, color=colour, label=label, linewidth=wide)
    left.set(xlabel="step", ylabel="loss", title="training")
    for key, label, colour in (("rank1", "rank-1", COLOURS[0]), ("map", "mAP", COLOURS[1])):
        points = [(entry["epoch"], entry[key]) for entry in validation if key in entry]
        if points:
            epoch, percent = zip(*points, strict=True)
            right.plot(epoch, percent, "o-", color=colour, label=f"{label}, best {max(percent):.2f}", markersize=3)
    right.set(xlabel="epoch", ylabel="percent", title="validation")
    for axes in (left, right):
        _style(axes)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9)
        else:
            axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", transform=axes.transAxes, color="grey")
    return figure


def cmc_curves(curves: Mapping[str, Float[np.ndarray, k]], title: str) -> Figure:
    """The share of queries, in percent, whose first true match is among the first 1, 2, .. k images, by method."""
    figure, axes = _chart(title)
    for number, (label, curve) in enumerate(curves.items()):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        ranks = np.arange(1, len(curve) + 1)
        axes.plot(ranks, curve, label=textwrap.fill(plain(label), 32), linewidth=2, color=colour, linestyle=dash)
    longest = max((len(curve) for curve in curves.values()), default=1)
    axes.set(xlabel="rank", ylabel="matched queries (%)", xlim=(1, max(longest, 2)), ylim=(None, 101))
    step = next(step for step in (1, 5, 10, 100) if longest <= 8 * step or step == 100)
    axes.set_xticks(sorted({1, *range(step, longest + 1, step)}))
    axes.legend(frameon=False, fontsize=10, loc="lower right")
    return figure


def distance_histogram(distances: Distances, title: str) -> Figure:
    """How cosine distances of pairs of one identity and of two are distributed, each with an area of 1."""
    figure, axes = _chart(title)
    every = np.concatenate([distances.genuine, distances.impostor])
    edges = np.linspace(every.min(initial=2), max(every.max(initial=0), every.min(initial=2) + 1e-6), 61)
    for values, label, colour, line in (
        (distances.genuine, "genuine: the same person", COLOURS[0], "-"),
        (distances.impostor, "impostor: two persons", COLOURS[1], "--"),
    ):
        if len(values):
            density = np.histogram(values, edges, density=True)[0]
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(density, edges, color=colour, linestyle=line, linewidth=1.6, label=label)
    axes.set(xlabel="cosine distance", ylabel="density", ylim=(0, axes.get_ylim()[1] * 1.3))  # room for the legend
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    return figure


def feature_map(
    points: Float[np.ndarray, "n 2"], identity: Int[np.ndarray, n], modality: Int[np.ndarray, n], title: str
) -> Figure:
    """Images as points, coloured by identity; circles are visible images and triangles infrared ones."""
    figure, axes = _chart(title)
    people = np.unique(identity)
    for number, person in enumerate(people):
        for kind, (marker, _) in SHAPES.items():
            chosen = (identity == person) & (modality == kind)
            style = {"color": COLOURS[number % len(COLOURS)], "edgecolors": "white", "linewidths": 0.4}
            axes.scatter(*points[chosen].T, marker=marker, s=34, **style)
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)
    style = {"linestyle": "", "markersize": 7}
    handles = [Line2D([], [], marker=m, color="grey", label=name, **style) for m, name in SHAPES.values()]
    for number, person in enumerate(people):
        colour = COLOURS[number % len(COLOURS)]
        handles.append(Line2D([], [], marker="s", color=colour, label=f"identity {person}", **style))
    where = {"loc": "outside lower center", "ncols": 3, "columnspacing": 1.0, "handletextpad": 0.2}
    figure.legend(handles=handles, frameon=False, fontsize=9, **where)
    return figure


def _chart(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    lines = textwrap.fill(plain(title), 44, max_lines=2, placeholder=" …", break_on_hyphens=False)
    figure.suptitle(lines, fontsize=12)  # of the axes, it would be cut where they are narrow
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def plain(text: str) -> str:
    """Text that is neither read as a formula nor, for an underscore in front, left out of a legend.

    What the font lacks, of which matplotlib would warn, is written as its number, \\u738b.
    """
    known = _characters()
    text = text.encode(errors="replace").decode()
    text = "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in text)
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@functools.cache
def _characters() -> frozenset[int]:
    """Those that the font of the charts has, and the line's end."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset({ord("\n"), *font.get_charmap()})
