"""Pictures of images: ranked lists, attention maps, thumbnails. Sheets are Figures; pyplot is not used."""

from __future__ import annotations

import colorsys
import io
import itertools
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from saai_jax.affinity.nearest import Nearest
from saai_jax.report.charts import plain
from saai_jax.report.correspondence import Aligned, Matches, centres, described

Pictures = Callable[[np.ndarray], np.ndarray]  # rows i32[*] -> u8[* h w 3]
LARGE = 288  # pixels: how high a picture with lines in it is, about
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
    titles = [f"query: {cut(name, 60)}" for name in names]
    words = [["", *(f"{place}:  {value:.3f}" for place, value in enumerate(row, 1))] for row in nearest.distance]
    return _sheet(np.concatenate([query[:, None], found], axis=1), titles, words)


def coattention_maps(
    images: UInt8[np.ndarray, "k 2 h w 3"],
    aligned: Sequence[Aligned],
    names: Sequence[tuple[str, str]],
    titles: Sequence[str],
) -> Figure:
    """A row for every pair: the masks at the sides, the co-attention of each image in the middle (LbA, Fig. S4).

    names: of the images of each pair. Raises ValueError for numbers of pairs that do not match.
    """
    drawn, words = [], []
    for pair, of, (first, second), _ in zip(images, aligned, names, titles, strict=True):
        drawn.append([over for over, _ in aligned_overlays(pair, of)])
        words.append([f"{cut(first, 30)}\nmask", "co-attention", "co-attention", f"{cut(second, 30)}\nmask"])
    caption = "where an image shows a person, and where both do: from 0 (dark blue) to 1 (yellow)"
    return _sheet(np.stack(drawn), titles, words, caption=caption, apart=2)


def aligned_overlays(pair: UInt8[np.ndarray, "2 h w 3"], of: Aligned) -> list[tuple[UInt8[np.ndarray, "h w 3"], str]]:
    """Mask and co-attention over the first image, co-attention and mask over the second, each with its name."""
    first, second = ([("mask", of.mask[i]), ("co-attention", of.coattention[i])] for i in (0, 1))
    shown = [(pair[0], *part) for part in first] + [(pair[1], *part) for part in second[::-1]]
    return [(overlay(image, values)[0], name) for image, name, values in shown]


def correspondences(
    images: UInt8[np.ndarray, "k 2 h w 3"],
    matches: Sequence[Matches],
    shape: tuple[int, int],
    names: Sequence[tuple[str, str]],
    titles: Sequence[str],
) -> Figure:
    """A row for every pair: the images side by side, lines between their matches (LbA, Fig. S5).

    shape: rows and columns of the map. names: of the images of each pair. Raises ValueError for numbers of pairs that
    do not match.
    """
    drawn, words = [], []
    for pair, of, (first, second), _ in zip(images, matches, names, titles, strict=True):
        drawn.append([connected(pair, of, shape)])
        words.append([f"{cut(first, 60)}\n{cut(second, 60)}\n{described(of)}"])
    return _sheet(np.stack(drawn), titles, words, least=5.0)


def connected(
    pair: UInt8[np.ndarray, "2 h w 3"], matches: Matches, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Both images side by side, small ones enlarged, with a line of another colour between the cells of each match."""
    _, height, width, _ = pair.shape
    space = width // 4
    scale = 3 * max(1, round(LARGE / height))  # drawn three times as large, then reduced: lines without steps
    image = np.full((height, 2 * width + space, 3), PAPER, np.uint8)
    image[:, :width], image[:, -width:] = pair
    canvas = Image.fromarray(image)
    canvas = canvas.resize((scale * canvas.width, scale * canvas.height), Image.Resampling.BILINEAR)
    draw, thick = ImageDraw.Draw(canvas), max(3, canvas.height // 150)
    ends = (centres(of, shape, (height, width)) for of in (matches.position, matches.target))
    for number, (start, end) in enumerate(zip(*ends, strict=True)):
        # Steps of the golden ratio: hues of any number of lines lie apart, those of neighbours most.
        red, green, blue = (round(255 * level) for level in colorsys.hsv_to_rgb(number * 0.618 % 1, 1, 1))
        points = [tuple(scale * start), tuple(scale * (end + np.array([width + space, 0])))]
        draw.line(points, (red, green, blue), thick)
        for point in points:
            draw.circle(point, 1.5 * thick, (red, green, blue))
    return np.asarray(canvas.reduce(3))


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


def cut(name: str, most: int) -> str:
    """The name, or its end where it has more than `most` characters."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def _sheet(
    pictures: UInt8[np.ndarray, "r c h w 3"],
    titles: Sequence[str],
    words: Sequence[Sequence[str]],
    *,
    frames: Int[np.ndarray, "r c 3"] | None = None,
    caption: str = "",
    apart: int = 1,
    least: float = 8.0,
) -> Figure:
    """Rows of pictures, each row below its title and each picture in its frame, above its words.

    apart: how many pictures stand apart from the rest of their row. least: inches of the width, at least. One Axes
    with the sheet's pixels for units: an Axes for each picture would take seconds.
    """
    rows, columns, height, width, _ = pictures.shape
    frame = max(2, width // 18)
    column, gap = width + 4 * frame, 4 * frame * (columns > apart)
    wide = columns * column + gap
    inches = max(least, 0.8 * columns)
    point = wide / (72 * inches)  # pixels of the sheet
    lines = 1 + max(text.count("\n") for row in words for text in row)
    head, foot = frame + round(18 * point), frame + round((10 * lines + 6) * point)
    row = head + height + foot
    sheet = np.full((rows * row + round(14 * point), wide, 3), PAPER, np.uint8)
    figure = Figure(figsize=(inches, inches * len(sheet) / wide))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for r, c in itertools.product(range(rows), range(columns)):
        y, x = r * row + head, c * column + 2 * frame + (gap if c >= apart else 0)
        if not c and titles[r]:
            axes.text(x - 0.5, y - frame - 2 * point, plain(titles[r]), ha="left", va="bottom", fontsize=9)
        if frames is not None:
            sheet[y - frame : y + height + frame, x - frame : x + width + frame] = frames[r, c]
        sheet[y : y + height, x : x + width] = pictures[r, c]
        if words[r][c]:
            axes.text(x + width / 2, y + height + frame + point, plain(words[r][c]), ha="center", va="top", fontsize=7)
    axes.text(wide / 2, len(sheet) - 2 * point, caption, ha="center", va="bottom", fontsize=9)
    axes.imshow(sheet)
    return figure
