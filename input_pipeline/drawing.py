"""Painting a posed person: projection into a badly cut box, patterns of cloth, shaded limbs on a canvas."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from input_pipeline.index import INFRARED
from input_pipeline.people import Cloth, Material, Person
from input_pipeline.posing import Limb, limbs, pose
from input_pipeline.scenes import Camera, background, expose

CLOTH_UNIT = 0.25  # a cloth's frequency counts periods per this share of the stature, on every part of the body alike
AMBIENT = 0.55  # brightness of a surface seen edge-on


class Canvas(NamedTuple):
    """What has been painted. tone: f32[h w c], premultiplied by cover: f32[h w 1] in 0..1; scale: pixels per stature.

    yaw turns the cloth with the body; lamp, -1..1, is the side the light comes from.
    """

    tone: np.ndarray
    cover: np.ndarray
    scale: float
    yaw: float
    lamp: float


def render(person: Person, camera: Camera, random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """u8[h w 3], one picture of the person; the three channels are equal for an infrared camera."""
    moment = pose(person, camera, random)
    body = limbs(person, moment)
    ends, nearness = _project(body, moment.yaw, camera.elevation)
    radii = np.array([(limb.start_radius, limb.end_radius) for limb in body])[..., None]
    scale, origin = _cut((ends - radii).min(axis=(0, 1)), (ends + radii).max(axis=(0, 1)), random, height, width)
    channels = 1 if camera.modality == INFRARED else 3
    tone, cover = np.zeros((height, width, channels), np.float32), np.zeros((height, width, 1), np.float32)
    canvas = Canvas(tone, cover, scale, moment.yaw, random.uniform(-1, 1))
    pixels = (ends * scale + origin).tolist()
    for number in np.argsort(nearness):
        _paint(canvas, body[number], *pixels[number])
    return expose(tone, cover, camera, random, background(camera, random, height, width))


def _project(body: list[Limb], yaw: float, elevation: float) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every limb as the camera sees them (right, down), f64[n 2 2], and how near it is, f64[n]."""
    points = np.array([(limb.start, limb.end) for limb in body])
    right, up, forward = points[..., 0], points[..., 1], points[..., 2]
    across = right * np.cos(yaw) + forward * np.sin(yaw)
    near = forward * np.cos(yaw) - right * np.sin(yaw)
    # Seen from above, what is nearer lies lower in the picture.
    down = near * np.sin(elevation) - up * np.cos(elevation)
    return np.stack([across, down], axis=2), near.mean(axis=1) + [limb.before for limb in body]


def _cut(
    low: np.ndarray, high: np.ndarray, random: np.random.Generator, height: int, width: int
) -> tuple[float, np.ndarray]:
    """Pixels per stature and the pixel of the body's origin, for a body that extends from low to high, f64[2].

    A detector's box: mostly a little off, often cutting up to a fifth of the height away or far too large.
    """
    span = high - low
    fitting = min(0.94 * height / span[1], 1.1 * width / span[0])
    kind = random.random()
    if kind < 0.2:  # feet cut off
        zoom, anchor = random.uniform(1.08, 1.28), random.uniform(0.0, 0.1)
    elif kind < 0.33:  # head cut off
        zoom, anchor = random.uniform(1.05, 1.22), random.uniform(0.85, 1.0)
    elif kind < 0.48:  # far too large
        zoom, anchor = random.uniform(0.72, 0.88), random.uniform(0.0, 1.0)
    else:
        zoom, anchor = random.uniform(0.92, 1.06), random.uniform(0.3, 0.7)
    scale = fitting * zoom
    corner = np.array(
        [width * (0.5 + random.normal(0, 0.04)) - scale * span[0] / 2, anchor * (height - scale * span[1])]
    )
    return float(scale), corner - scale * low


def _paint(canvas: Canvas, limb: Limb, start: list[float], end: list[float]) -> None:
    """One limb over what is already there, in place. start, end: pixels (right, down)."""
    thick, thin = limb.start_radius * canvas.scale, limb.end_radius * canvas.scale
    window = _window(start, end, max(thick, thin) + 1.5, canvas.cover.shape)
    if window is None:
        return
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] + np.float32(0.5 - start[1])
    columns = np.arange(window[1].start, window[1].stop, dtype=np.float32) + np.float32(0.5 - start[0])
    length = math.dist(start, end) + 1e-6
    right, down = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    along, across = columns * right + rows * down, columns * down - rows * right
    reached = np.minimum(np.maximum(along, 0), length)
    radius = thick + (thin - thick) / length * reached
    if limb.flat:
        distance = np.maximum(np.abs(across) - radius, np.maximum(-along, along - length))
    else:
        distance = np.hypot(along - reached, across) - radius
    opaque = np.minimum(np.maximum(0.5 - distance, 0), 1)[..., None]
    turn = np.minimum(np.maximum(across / np.maximum(radius, 0.5), -1), 1)
    shade = AMBIENT + (1 - AMBIENT) * (0.85 * np.sqrt(1 - turn * turn) + 0.25 * canvas.lamp * turn)
    infrared = canvas.tone.shape[2] == 1
    surface = _tone(limb.cloth.ground, infrared)
    if limb.cloth.pattern != "plain":
        around = (np.arcsin(turn) + (math.pi - canvas.yaw)) % (2 * math.pi) - math.pi
        down_cloth = along * (1 / canvas.scale / CLOTH_UNIT) + limb.offset / CLOTH_UNIT
        figure = _figure(limb.cloth, around * (limb.start_radius / CLOTH_UNIT), down_cloth)
        surface = np.where(figure[..., None], _tone(limb.cloth.figure, infrared), surface)
    tone, cover = canvas.tone[window], canvas.cover[window]
    tone += opaque * (surface * shade[..., None] - tone)
    cover += opaque * (1 - cover)


def _window(start: list[float], end: list[float], reach: float, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Rows and columns that a limb may touch; None outside the picture."""
    left, right = max(int(min(start[0], end[0]) - reach), 0), min(int(max(start[0], end[0]) + reach) + 1, shape[1])
    top, bottom = max(int(min(start[1], end[1]) - reach), 0), min(int(max(start[1], end[1]) + reach) + 1, shape[0])
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _tone(material: Material, infrared: bool) -> np.ndarray:
    """f32[c]: the infrared reflectance, or red, green and blue."""
    return np.array([material.reflectance] if infrared else material.colour, np.float32)


def _figure(cloth: Cloth, around: np.ndarray, down: np.ndarray) -> np.ndarray:
    """bool[h w], True on the pattern's figure, at places around and down a part in CLOTH_UNITs."""
    frequency, phase, duty = cloth.frequency, cloth.phase, cloth.duty
    match cloth.pattern:
        case "hoops":
            return (down * frequency + phase) % 1 < duty
        case "pinstripe":
            return (around * frequency + phase) % 1 < duty
        case "diagonal":
            return ((down + around) * 0.7 * frequency + phase) % 1 < duty
        case "check":
            columns, rows = (place * 0.7 * frequency + phase for place in (around, down))
            return (columns % 1 < 0.5) ^ (rows % 1 < 0.5)
        case "dots":
            column, row = ((place * 0.8 * frequency + phase) % 1 - 0.5 for place in (around, down))
            return column * column + row * row < (0.2 + 0.25 * duty) ** 2
        case "block":
            return (down * 0.6 + phase) % 1 < duty
        case "panel":
            half = 0.15 + 0.3 * duty
            return (np.abs(around) < half) & (np.abs(down - 0.45) < half)
    raise ValueError(f"no pattern {cloth.pattern!r}")
