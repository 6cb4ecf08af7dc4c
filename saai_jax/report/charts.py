"""Charts of a report: CMC curves, histograms of distances, maps of features. Each is a Figure; pyplot is not used."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saai_jax.files import atomic_write
from saai_jax.report.pairs import Distances

# Okabe and Ito's colours, apart for every kind of colour vision; yellow is left out, it is too faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#777777")
DASHES = ("-", "--", "-.", ":")
SIZE = (5.0, 4.0)  # inches: shown at the width of a phone, the text of a larger figure could not be read
SHAPES = {0: ("o", "visible"), 1: ("^", "infrared")}


def save(figure: Figure, folder: Path, name: str) -> str:
    """Writes folder/name.png and .svg, and gives the text of the latter; the same figure gives the same text."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    with atomic_write(folder / f"{name}.svg") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    with atomic_write(folder / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=200)
    return text.getvalue()


def cmc_curves(curves: Mapping[str, Float[np.ndarray, k]], title: str) -> Figure:
    """The share of queries, in percent, whose first true match is among the first 1, 2, .. k images, by method."""
    figure, axes = _chart(title)
    for number, (label, curve) in enumerate(curves.items()):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        ranks = np.arange(1, len(curve) + 1)
        axes.plot(ranks, curve, label=_plain(label), linewidth=2, color=colour, linestyle=dash)
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
    axes.set_title(textwrap.fill(_plain(title), 44, max_lines=2, placeholder=" …", break_on_hyphens=False), fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def _plain(text: str) -> str:
    """Text that is neither read as a formula nor, for an underscore in front, left out of a legend."""
    text = text.encode(errors="replace").decode().replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
