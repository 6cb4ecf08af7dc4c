"""Who the synthetic people are: body, gait, garments and bags, in families of four look-alikes.

A family shares one body type and one wardrobe of three cloths. Its members wear the same cloths on other parts of the
body, or differ in a single part, so that the average texture of a picture tells them apart badly and its parts well.
"""

from __future__ import annotations

import colorsys
import functools
from typing import NamedTuple

import numpy as np

FAMILY_SIZE = 4

# First word of every random stream's key; streams with different purposes never share numbers.
FAMILY_STREAM, MEMBER_STREAM, PICTURE_STREAM, SPLIT_STREAM, COUNT_STREAM, PERMUTATION_STREAM = range(1, 7)

# Share of a material's infrared reflectance that follows its luminance; the rest is drawn independently of colour.
LUMINANCE_SHARE = 0.55
CONTRAST = 0.45  # least difference of the two tones of a pattern, in both bands, so that blur and noise leave it

PATTERNS = ("plain", "hoops", "pinstripe", "check", "dots", "diagonal", "block", "panel")
TWISTS = ("trousers", "sleeves", "coat", "bag", "hat", "cut")
BAGS = ("none", "backpack", "shoulder", "carrier")
CUTS = ("trousers", "shorts", "skirt")
HAIR = ("short", "bob", "long", "bald")
SLEEVES = (0.0, 0.5, 1.0)
COATS = (0.0, 0.1, 0.17)  # shorter than any skirt, or the cut below would not show


class Material(NamedTuple):
    """What a surface sends back. colour: red, green and blue in 0..1; reflectance: infrared, 0..1."""

    colour: tuple[float, float, float]
    reflectance: float


class Cloth(NamedTuple):
    """A pattern of two materials. frequency: periods per quarter of a stature; duty, phase: 0..1."""

    pattern: str
    frequency: float
    duty: float
    phase: float
    ground: Material
    figure: Material


class Person(NamedTuple):
    """One identity. Lengths are shares of the stature, widths are factors around 1, gait is radians of hip swing.

    sleeve: 0 none, 0.5 to the elbow, 1 to the wrist; coat: how far the upper garment hangs below the hip.
    """

    leg: float
    breadth: float
    shoulders: float
    head: float
    gait: float
    upper: Cloth
    lower: Cloth
    extra: Cloth
    shoe: Cloth
    skin: Cloth
    hair_colour: Cloth
    hair: str
    sleeve: float
    coat: float
    cut: str
    bag: str
    hat: bool


def stream(*key: int) -> np.random.Generator:
    """The random stream of a key of non-negative integers; the same key gives the same numbers in any process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@functools.lru_cache(maxsize=64)  # inventing a family takes as long as drawing one of its pictures
def person(seed: int, identity: int) -> Person:
    """The identity's looks. identity counts from 1; FAMILY_SIZE consecutive identities are look-alikes."""
    family, member = divmod(identity - 1, FAMILY_SIZE)
    # All members draw the whole family from its own stream, so that they agree on what they share.
    random = stream(FAMILY_STREAM, seed, family)
    base = _family(random)
    members = (
        base,
        base._replace(upper=base.lower, lower=base.upper),
        base._replace(upper=base.lower, lower=base.extra, extra=base.upper),
        _twist(base, random),
    )
    found, random = members[member], stream(MEMBER_STREAM, seed, identity)
    return found._replace(
        leg=found.leg + random.uniform(-0.01, 0.01),
        breadth=found.breadth * random.uniform(0.95, 1.05),
        head=found.head * random.uniform(0.97, 1.03),
        gait=found.gait * random.uniform(0.9, 1.1),
    )


def _family(random: np.random.Generator) -> Person:
    upper, lower, extra = (_cloth(random, [name]) for name in random.permutation(PATTERNS)[:3].tolist())
    bag = str(random.choice(BAGS, p=(0.25, 0.3, 0.25, 0.2)))
    return Person(
        leg=random.uniform(0.45, 0.52),
        breadth=random.uniform(0.85, 1.25),
        shoulders=random.uniform(0.92, 1.12),
        head=random.uniform(0.92, 1.12),
        gait=random.uniform(0.25, 0.55),
        upper=upper,
        lower=lower,
        extra=extra,
        shoe=_plain(_material(random)),
        skin=_plain(Material(_tint((0.85, 0.65, 0.52), random.uniform(0.45, 1.05)), random.uniform(0.55, 0.8))),
        hair_colour=_plain(Material(_tint((0.25, 0.17, 0.1), random.uniform(0.2, 3.2)), random.uniform(0.1, 0.6))),
        hair=str(random.choice(HAIR, p=(0.4, 0.25, 0.25, 0.1))),
        sleeve=float(random.choice(SLEEVES, p=(0.1, 0.35, 0.55))),
        coat=float(random.choice(COATS, p=(0.6, 0.25, 0.15))),
        cut=str(random.choice(CUTS, p=(0.65, 0.2, 0.15))),
        bag=bag,
        # The third cloth shows on the bag or on the hat, so that permuting the wardrobe is always seen.
        hat=bool(bag == "none" or random.random() < 0.25),
    )


def _twist(base: Person, random: np.random.Generator) -> Person:
    """The base with one part changed."""
    part = str(random.choice(TWISTS))
    if part == "trousers":
        worn = {base.upper.pattern, base.lower.pattern, base.extra.pattern}
        return base._replace(lower=_cloth(random, [name for name in PATTERNS if name not in worn]))
    if part == "sleeves":
        return base._replace(sleeve=0.0 if base.sleeve == 1.0 else 1.0)
    if part == "coat":
        return base._replace(coat=0.0 if base.coat else COATS[-1])
    if part == "bag":
        return base._replace(bag=_other(BAGS, base.bag, random))
    if part == "hat":
        return base._replace(hat=not base.hat)
    return base._replace(cut=_other(CUTS, base.cut, random))


def _cloth(random: np.random.Generator, patterns: list[str]) -> Cloth:
    while True:
        ground, figure = _material(random), _material(random)
        visible = max(abs(one - other) for one, other in zip(ground.colour, figure.colour, strict=True))
        if visible >= CONTRAST and abs(ground.reflectance - figure.reflectance) >= 0.8 * CONTRAST:
            break
    pattern = str(random.choice(patterns))
    return Cloth(pattern, random.uniform(1.5, 4.0), random.uniform(0.35, 0.65), random.random(), ground, figure)


def _plain(material: Material) -> Cloth:
    return Cloth("plain", 1.0, 0.5, 0.0, material, material)


def _material(random: np.random.Generator) -> Material:
    if random.random() < 0.3:
        grey = random.uniform(0.05, 0.9)
        colour = _tint((1.0, random.uniform(0.85, 1.0), random.uniform(0.85, 1.0)), grey)
    else:
        colour = colorsys.hsv_to_rgb(random.random(), random.uniform(0.3, 0.95), random.uniform(0.2, 0.95))
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    own = random.uniform(0.05, 1.0)
    return Material(colour, LUMINANCE_SHARE * luminance + (1 - LUMINANCE_SHARE) * own)


def _tint(colour: tuple[float, float, float], strength: float) -> tuple[float, float, float]:
    red, green, blue = (min(channel * strength, 1.0) for channel in colour)
    return red, green, blue


def _other(names: tuple[str, ...], current: str, random: np.random.Generator) -> str:
    return str(random.choice([name for name in names if name != current]))
