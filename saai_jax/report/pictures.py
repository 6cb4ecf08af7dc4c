"""Pictures of images: ranked lists, attention maps, thumbnails. Sheets are Figures; pyplot is not used."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from matplotlib.figure import Figure
from PIL import Image

from saai_jax.affinity.nearest import Nearest
from saai_jax.report.charts import plain

Pictures = Callable[[np.ndarray], np.ndarray]  # rows i32[*] -> u8[* h w 3]
RIGHT, WRONG, SKIPPED, PAPER = (0, 158, 115), (213, 60, 0), (170, 170, 170), (255, 255, 255)


def apply(
    function: Callable[[UInt8[np.ndarray, "b h w 3"], Int[np.ndarray, b]], Array | np.ndarray],
    pictures: Pictures,
    rows: Int[np.ndarray, k],
    modality: Int[np.ndarray, k],
    batch: int = 128,
) -> np.ndarray:
    """What `function` of images and modalities gives for the pictures of `rows`, at most `batch` of them at a time."""
    parts = [slice(start, start + batch) for start in range(0, len(rows), batch)]
    return np.concatenate([np.asarray(function(pictures(rows[part]), modality[part])) for part in parts])


def ranked_lists(
    query_images: UInt8[np.ndarray, "k h w 3"],
    gallery_images: UInt8[np.ndarray, "m k top h w 3"],
    correct: Bool[np.ndarray, "m k top"],
    skipped: Bool[np.ndarray, "m k top"] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Each query with the first gallery images of every method: green the same person, red another, grey skipped.

    skipped: images the protocol leaves out; titles: m names of methods. Raises ValueError for other shapes.
    """
    methods, queries, top, *size = gallery_images.shape
    skipped = np.zeros_like(correct) if skipped is None else skipped
    for name, array, shape in (
        ("query_images", query_images, (queries, *size)),
        ("correct", correct, (methods, queries, top)),
        ("skipped", skipped, (methods, queries, top)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; the gallery images ask for {shape}")
    colours = np.where(skipped[..., None], SKIPPED, np.where(correct[..., None], RIGHT, WRONG))
    rows = [(k, m) for k in range(queries) for m in range(methods)]
    return _sheet(
        np.stack([[query_images[k], *gallery_images[m, k]] for k, m in rows]),
        [titles[m] if titles else "" for _, m in rows],
        [["query", *map(str, range(1, top + 1))]] * len(rows),
        frames=np.stack([[PAPER, *colours[m, k]] for k, m in rows]),
        caption="green: the same person, red: another person" + ", grey: skipped by the protocol" * bool(skipped.any()),
    )


def attention_maps(
    images: UInt8[np.ndarray, "k h w 3"], attention: Float[np.ndarray, "k p r c"], names: Sequence[str]
) -> Figure:
    """A row for every image: the picture, then each attention map over it, dark blue low to yellow high.

    Every map spans its own range, which stands below it. Raises ValueError for shapes and names that do not match.
    """
    if attention.ndim != 4 or images.ndim != 4 or not len(images) == len(attention) == len(names):
        raise ValueError(f"{images.shape} images, {attention.shape} attention and {len(names)} names do not match")
    drawn = [[overlay(image, part) for part in maps] for image, maps in zip(images, attention, strict=True)]
    return _sheet(
        np.stack([[image, *(over for over, _ in maps)] for image, maps in zip(images, drawn, strict=True)]),
        names,
        [["picture", *(f"map {p}\n{span}" for p, (_, span) in enumerate(maps, 1))] for maps in drawn],
        caption="attention, from the lowest (dark blue) to the highest (yellow) value of each map",
    )


def search_lists(
    query: UInt8[np.ndarray, "q h w 3"], found: UInt8[np.ndarray, "q top h w 3"], nearest: Nearest, names: Sequence[str]
) -> Figure:
    """Each query, named, with the pictures found for it, nearest first, their places and distances below them.

    All pictures are of one size. Raises ValueError for other shapes.
    """
    queries, top = nearest.index.shape
    if not queries or len(query) != queries or len(names) != queries or found.shape != (queries, top, *query.shape[1:]):
        raise ValueError(
            f"{query.shape} queries, {found.shape} found and {len(names)} names do not fit {queries} lists of {top}"
        )
    titles = [f"query: {name if len(name) <= 60 else '...' + name[-57:]}" for name in names]
    words = [["", *(f"{place}:  {value:.3f}" for place, value in enumerate(row, 1))] for row in nearest.distance]
    return _sheet(np.concatenate([query[:, None], found], axis=1), titles, words)


def overlay(
    image: UInt8[np.ndarray, "h w 3"], attention: Float[np.ndarray, "r c"]
) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """The attention in colours over the picture in grey, and the range of the colours in words."""
    height, width = image.shape[:2]
    grey = image.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2)
    low, high = float(attention.min()), float(attention.max())
    level = (attention.astype(np.float32) - low) / max(high - low, 1e-12)
    level = np.asarray(Image.fromarray(level).resize((width, height), Image.Resampling.BILINEAR))
    colours = matplotlib.colormaps["cividis"](level)[..., :3]
    return (0.4 * grey + 0.6 * 255 * colours).astype(np.uint8), f"{low:.2f} – {high:.2f}"


def thumbnails(pictures: Pictures | None, rows: Int[np.ndarray, n], height: int) -> dict[int, bytes]:
    """JPEGs of the pictures of `rows`, no higher than `height` pixels, by row; none without pictures."""
    if pictures is None:
        return {}
    rows = np.unique(rows)
    return {int(row): jpeg(image, height) for row, image in zip(rows, pictures(rows), strict=True)}


def jpeg(image: UInt8[np.ndarray, "h w 3"], height: int) -> bytes:
    """The image as JPEG, made smaller where it is higher than `height` pixels."""
    shown, file = Image.fromarray(image), io.BytesIO()
    if shown.height > height:
        shown = shown.resize((max(1, shown.width * height // shown.height), height), Image.Resampling.LANCZOS)
    shown.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()


def _sheet(
    pictures: UInt8[np.ndarray, "r c h w 3"],
    titles: Sequence[str],
    words: Sequence[Sequence[str]],
    *,
    frames: Int[np.ndarray, "r c 3"] | None = None,
    caption: str = "",
) -> Figure:
    """Rows of pictures, each row below its title and each picture in its frame, above its words; the first one apart.

    One Axes with the sheet's pixels for units: an Axes for each picture would take seconds.
    """
    rows, columns, height, width, _ = pictures.shape
    frame = max(2, width // 18)
    column, gap = width + 4 * frame, 4 * frame
    wide = columns * column + gap
    inches = max(8.0, 0.8 * columns)
    point = wide / (72 * inches)  # pixels of the sheet
    lines = 1 + max(text.count("\n") for row in words for text in row)
    head, foot = frame + round(18 * point), frame + round((10 * lines + 6) * point)
    row = head + height + foot
    sheet = np.full((rows * row + round(14 * point), wide, 3), PAPER, np.uint8)
    figure = Figure(figsize=(inches, inches * len(sheet) / wide))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for r, c in itertools.product(range(rows), range(columns)):
        y, x = r * row + head, c * column + 2 * frame + (gap if c else 0)
        if not c and titles[r]:
            axes.text(x - 0.5, y - frame - 2 * point, plain(titles[r]), ha="left", va="bottom", fontsize=9)
        if frames is not None:
            sheet[y - frame : y + height + frame, x - frame : x + width + frame] = frames[r, c]
        sheet[y : y + height, x : x + width] = pictures[r, c]
        if words[r][c]:
            axes.text(x + width / 2, y + height + frame + point, words[r][c], ha="center", va="top", fontsize=7)
    axes.text(wide / 2, len(sheet) - 2 * point, caption, ha="center", va="bottom", fontsize=9)
    axes.imshow(sheet)
    return figure
