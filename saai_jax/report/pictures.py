"""Pictures of a run: curves, ranked lists, attention maps. Figures are objects; pyplot is not used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, apart for every kind of colour vision
LOSSES = {
    "loss": ("total", "#000000"),
    "shared": ("shared identity", "#0072B2"),
    "specific": ("modality-specific identity", "#56B4E9"),
    "mutual": ("cross-modality mutual", "#009E73"),
    "separation": ("centre separation", "#D55E00"),
    "diversity": ("part diversity", "#CC79A7"),
}
RIGHT, WRONG, SKIPPED, PAPER = (0, 158, 115), (213, 60, 0), (170, 170, 170), (255, 255, 255)
POINTS = 400  # a curve of more is a smear: its neighbours are averaged


def curves(metrics: Sequence[Mapping[str, Any]], file: str | os.PathLike):
    """Draws the losses by step and the validation rank-1 and mAP by epoch, from the entries of a metrics.jsonl."""
    train = [entry for entry in metrics if entry["kind"] == "train"]
    validation = [entry for entry in metrics if entry["kind"] == "validation"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, (label, colour) in LOSSES.items():
        points = np.array([(entry["step"], entry[key]) for entry in train if key in entry], dtype=np.float64)
        if len(points):
            width = -(-len(points) // POINTS)
            step, loss = np.array([chunk.mean(0) for chunk in np.split(points, range(width, len(points), width))]).T
            left.plot(step, loss, color=colour, label=label, linewidth=2 if key == "loss" else 1.2)
    left.set(xlabel="step", ylabel="loss", title="training")
    for key, label, colour in (("rank1", "rank-1", "#0072B2"), ("map", "mAP", "#D55E00")):
        points = [(entry["epoch"], entry[key]) for entry in validation if key in entry]
        if points:
            epoch, percent = zip(*points, strict=True)
            best = max(percent)
            right.plot(epoch, percent, "o-", color=colour, label=f"{label}, best {best:.2f}", markersize=3)
    right.set(xlabel="epoch", ylabel="percent", title="validation")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9)
        else:
            axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", transform=axes.transAxes, color="grey")
    figure.savefig(file, dpi=120)


def ranked_lists(
    file: str | os.PathLike,
    query_images: np.ndarray,
    gallery_images: np.ndarray,
    correct: np.ndarray,
    skipped: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
):
    """Draws each query with the first gallery images of every method: green the same person, red another, grey skipped.

    query_images: u8[k h w 3]; gallery_images: u8[m k top h w 3]; correct: bool[m k top]; skipped: bool[m k top], images
    the protocol leaves out; titles: m names of methods. All images are of one size. Raises ValueError on other shapes.
    """
    methods, queries, top, height, width, _ = gallery_images.shape
    skipped = np.zeros_like(correct) if skipped is None else skipped
    for name, array, shape in (
        ("query_images", query_images, (queries, height, width, 3)),
        ("correct", correct, (methods, queries, top)),
        ("skipped", skipped, (methods, queries, top)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; the gallery images ask for {shape}")
    border = max(2, width // 18)
    row, column = height + 4 * border, width + 4 * border
    gap = row // 5  # between queries, and between a query and its list
    sheet = _sheet(queries * (methods * row + gap) - gap, (top + 1) * column + gap)
    figure, axes = _page(sheet)
    for k in range(queries):
        for m in range(methods):
            y = k * (methods * row + gap) + m * row
            if titles:
                axes.text(-column / 8, y + row / 2, titles[m], ha="right", va="center", fontsize=9)
            if m == 0:
                _paste(sheet, query_images[k], y + 2 * border, 2 * border)
            for rank in range(top):
                colour = SKIPPED if skipped[m, k, rank] else RIGHT if correct[m, k, rank] else WRONG
                x = gap + (rank + 1) * column + border
                sheet[y + border : y + height + 3 * border, x : x + width + 2 * border] = colour
                _paste(sheet, gallery_images[m, k, rank], y + 2 * border, x + border)
    for column_number, title in enumerate(["query", *map(str, range(1, top + 1))]):
        x = (column_number + 0.5) * column + (gap if column_number else 0)
        axes.text(x, -gap / 8, title, ha="center", va="bottom", fontsize=9)
    caption = "green: the same person, red: another person" + (
        ", grey: skipped by the protocol" if skipped.any() else ""
    )
    _finish(figure, axes, sheet, caption, file)


def attention_maps(file: str | os.PathLike, images: np.ndarray, attention: np.ndarray, names: Sequence[str]):
    """Draws a row for every person: the picture, then each part's attention over it, dark blue low to yellow high.

    images: u8[k h w 3]; attention: f32[k p rows cols]; names: k. Every map spans its own range, printed below it.
    Raises ValueError on other shapes.
    """
    persons, parts = attention.shape[:2]
    if attention.ndim != 4 or images.ndim != 4 or len(images) != persons or len(names) != persons:
        raise ValueError(f"{images.shape} images, {attention.shape} attention and {len(names)} names do not match")
    height, width = images.shape[1:3]
    margin = max(3, width // 12)
    row, column = height + max(4 * margin, height // 6), width + margin
    sheet = _sheet(persons * row, (parts + 1) * column)
    figure, axes = _page(sheet)
    for k in range(persons):
        axes.text(-column / 8, k * row + height / 2, names[k], ha="right", va="center", fontsize=9)
        _paste(sheet, images[k], k * row, 0)
        for p in range(parts):
            picture, span = overlay(images[k], attention[k, p])
            _paste(sheet, picture, k * row, (p + 1) * column)
            x = (p + 1) * column + width / 2
            axes.text(x, k * row + height + margin / 4, span, ha="center", va="top", fontsize=7)
    for p in range(parts + 1):
        title = f"part {p}" if p else "picture"
        axes.text(p * column + width / 2, -margin / 2, title, ha="center", va="bottom", fontsize=9)
    _finish(
        figure, axes, sheet, "attention, from the lowest (dark blue) to the highest (yellow) value of each map", file
    )


def overlay(image: np.ndarray, attention: np.ndarray) -> tuple[np.ndarray, str]:
    """u8[h w 3] of the attention f32[rows cols] over the picture u8[h w 3] in grey, and the range of its colours."""
    height, width = image.shape[:2]
    grey = image.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2)
    low, high = float(attention.min()), float(attention.max())
    level = (attention.astype(np.float32) - low) / max(high - low, 1e-12)
    level = np.asarray(Image.fromarray(level).resize((width, height), Image.Resampling.BILINEAR))
    colours = matplotlib.colormaps["cividis"](level)[..., :3]
    return (0.4 * grey + 0.6 * 255 * colours).astype(np.uint8), f"{low:.2f} – {high:.2f}"


def _sheet(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def _paste(sheet: np.ndarray, image: np.ndarray, y: int, x: int):
    sheet[y : y + image.shape[0], x : x + image.shape[1]] = image


def _page(sheet: np.ndarray) -> tuple[Figure, Axes]:
    """A figure of one Axes with the sheet's pixels for units; an Axes for each image would take seconds."""
    figure = Figure(figsize=(8, 8 * sheet.shape[0] / sheet.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes


def _finish(figure: Figure, axes: Axes, sheet: np.ndarray, caption: str, file: str | os.PathLike):
    axes.imshow(sheet)
    axes.annotate(caption, (0.5, 0), (0, -6), "axes fraction", "offset points", ha="center", va="top", fontsize=9)
    figure.savefig(file, dpi=150, bbox_inches="tight", pad_inches=0.1)  # tight: room for titles of any length
