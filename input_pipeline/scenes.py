"""Where and how the synthetic people are seen: cameras 1 to 6, their places, their light and their sensors."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from input_pipeline.index import INFRARED, VISIBLE
from input_pipeline.people import stream

PLACE_KEY = 77  # places do not depend on the seed of the people: cameras stay where they are


class Camera(NamedTuple):
    """One camera. yaw, elevation: radians, of the person and of the view from above; gain, cast: factors.

    blur: standard deviation in pixels of a picture 96 high; noise: standard deviation, 1 is white.
    """

    number: int
    modality: int
    place: int
    yaw: float
    elevation: float
    gain: float
    cast: tuple[float, float, float]
    blur: float
    noise: float


# Cameras 2 and 3 share a place, as in SYSU-MM01.
CAMERAS = {
    1: Camera(1, VISIBLE, 1, 0.0, 0.05, 1.0, (1.0, 0.97, 0.9), 0.3, 0.015),
    2: Camera(2, VISIBLE, 2, 2.7, 0.15, 0.9, (0.95, 1.0, 1.02), 0.35, 0.02),
    3: Camera(3, INFRARED, 2, 2.5, 0.15, 1.0, (1.0, 1.0, 1.0), 0.45, 0.025),
    4: Camera(4, VISIBLE, 3, 1.0, 0.25, 1.15, (1.0, 1.0, 0.95), 0.35, 0.02),
    5: Camera(5, VISIBLE, 4, -1.0, 0.3, 0.75, (0.92, 0.98, 1.1), 0.4, 0.03),
    6: Camera(6, INFRARED, 5, 0.6, 0.25, 0.95, (1.0, 1.0, 1.0), 0.5, 0.035),
}


def llcm_camera(number: int, modality: int) -> Camera:
    """One of LLCM's nine cameras, which see by day and by night from one spot: the places above in dimmer light."""
    spot = CAMERAS[(1, 2, 4, 5)[number % 4]]
    night = CAMERAS[6]
    own = spot._replace(number=number, yaw=spot.yaw + 0.15 * (number - 5), gain=spot.gain * (0.7 + 0.04 * number))
    if modality == VISIBLE:
        return own
    return own._replace(modality=INFRARED, cast=night.cast, gain=night.gain, blur=night.blur, noise=night.noise)


def background(camera: Camera, random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """f32[h w c] in 0..1: a stretch of the camera's place, c = 3 for a visible camera and 1 for an infrared one."""
    walls, floor = _place(camera.place, camera.modality)
    row, column = random.integers(0, walls.shape[0] - 6), random.integers(0, walls.shape[1] - 4)
    tone = _enlarge(walls[row : row + 6, column : column + 4], height, width)
    horizon = int(height * random.uniform(0.55, 0.95))
    tone[horizon:] = 0.35 * tone[horizon:] + 0.65 * floor
    for _ in range(random.integers(1, 5)):
        _fixture(tone, random)
    return tone


def expose(
    tone: np.ndarray, cover: np.ndarray, camera: Camera, random: np.random.Generator, behind: np.ndarray
) -> np.ndarray:
    """u8[h w 3], what the sensor stores of a person before a background.

    tone: f32[h w c] in 0..1, premultiplied by cover: f32[h w 1]; behind: f32[h w c].
    """
    scene = behind * (1 - cover) + tone
    _occlude(scene, random)
    scene *= _light(camera, random, *cover.shape[:2])
    scene = np.clip(scene, 0, 1.2) ** random.uniform(0.8, 1.25)
    blur = ImageFilter.GaussianBlur(camera.blur * random.uniform(0.7, 1.4) * len(cover) / 96)
    scene = np.asarray(_picture(scene).filter(blur), dtype=np.float32).reshape(scene.shape) / 255
    grain = np.float32(camera.noise * random.uniform(0.6, 1.5))
    scene += grain * random.standard_normal(scene.shape, dtype=np.float32)
    stored = (np.clip(scene, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.repeat(stored, 3, axis=2) if camera.modality == INFRARED else stored


@functools.cache
def _place(place: int, modality: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse tones of the walls, f32[rows columns c], and of the floor, f32[c]."""
    random = stream(PLACE_KEY, place, modality)
    channels = 1 if modality == INFRARED else 3
    walls = random.uniform(0.1, 0.75, (14, 10, channels)).astype(np.float32)
    walls = 0.3 * walls + 0.7 * walls.mean(axis=2, keepdims=True)  # walls are mostly grey
    floor = random.uniform(0.2, 0.6) * random.uniform(0.85, 1.15, channels)
    return walls, floor.astype(np.float32)


def _enlarge(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """f32[h w c] from f32[rows columns c] in 0..2, smoothly; c is 1 or 3."""
    enlarged = _picture(coarse / 2).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged, dtype=np.float32).reshape(height, width, -1) * np.float32(2 / 255)


def _picture(tone: np.ndarray) -> Image.Image:
    """Of f32[h w c] in 0..1, c = 1 or 3, in 8 bits: Pillow's filters are several times faster than numpy's."""
    stored = (np.minimum(np.maximum(tone, 0), 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(stored[..., 0] if stored.shape[2] == 1 else stored)


def _fixture(tone: np.ndarray, random: np.random.Generator) -> None:
    """A post, door frame or kerb, drawn in place."""
    height, width, _ = tone.shape
    if random.random() < 0.6:
        start = random.integers(0, width)
        region = tone[:, start : start + random.integers(1, max(width // 8, 2))]
    else:
        start = random.integers(0, height)
        region = tone[start : start + random.integers(1, max(height // 12, 2))]
    region[...] = 0.4 * region + 0.6 * random.uniform(0.1, 0.8)


def _occlude(scene: np.ndarray, random: np.random.Generator) -> None:
    """Now and then a low wall before the legs or a post before one side, in place."""
    if random.random() > 0.15:
        return
    height, width, _ = scene.shape
    if random.random() < 0.6:
        region = scene[int(height * random.uniform(0.68, 0.92)) :]
    else:
        thick = int(width * random.uniform(0.1, 0.28))
        region = scene[:, :thick] if random.random() < 0.5 else scene[:, width - thick :]
    region[...] = 0.1 * region + 0.9 * random.uniform(0.1, 0.7)


def _light(camera: Camera, random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """f32[h w c]: daylight patches and a colour cast, or the cone of an infrared lamp."""
    gain = camera.gain * random.uniform(0.75, 1.2)
    if camera.modality == INFRARED:
        rows = (np.arange(height, dtype=np.float32) / height - random.uniform(0.2, 0.7)) / 0.6
        columns = (np.arange(width, dtype=np.float32) / width - random.uniform(0.2, 0.8)) / 0.9
        cone = np.exp(-(rows[:, None, None] ** 2)) * np.exp(-(columns[None, :, None] ** 2))
        return ((0.6 + 0.55 * cone) * gain).astype(np.float32)
    patches = _enlarge(random.uniform(0.75, 1.2, (3, 2, 1)).astype(np.float32), height, width)
    cast = np.array(camera.cast) * random.uniform(0.85, 1.15, 3) * gain
    return patches * cast.astype(np.float32)
