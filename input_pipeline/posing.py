"""A person in a pose, as the rounded limbs to be drawn: angles, skeleton, clothed body, bags."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from input_pipeline.people import Cloth, Person
from input_pipeline.scenes import Camera


class Pose(NamedTuple):
    """Angles in radians. yaw 0 faces the camera; crouch 0..1; left, right: flexion of shoulder and elbow."""

    yaw: float
    phase: float
    stride: float
    bend: float
    lean: float
    crouch: float
    left: tuple[float, float]
    right: tuple[float, float]


class Limb(NamedTuple):
    """A tapered capsule between two points of the body (right, up, forward, in statures from the pelvis).

    flat: cut straight at its ends; before: added to its nearness when limbs are put in order; offset: how far down
    the garment the limb begins, in statures.
    """

    start: np.ndarray
    end: np.ndarray
    start_radius: float
    end_radius: float
    cloth: Cloth
    flat: bool = False
    before: float = 0.0
    offset: float = 0.0


def pose(person: Person, camera: Camera, random: np.random.Generator) -> Pose:
    """A moment of walking; at times bent, crouching or with an arm raised, so that parts leave their usual rows."""
    phase = random.uniform(0, 2 * np.pi)
    stride = person.gait * random.uniform(0.3, 1.3)
    swing = stride * np.sin(phase) * 0.9
    left, right = (swing, random.uniform(0.1, 0.6)), (-swing, random.uniform(0.1, 0.6))
    if random.random() < 0.35:
        # The right arm only: the left hand may carry the bag.
        right = random.uniform(0.8, 2.8), random.uniform(0.1, 1.5)
    return Pose(
        yaw=camera.yaw + random.normal(0, 0.45),
        phase=phase,
        stride=stride,
        bend=random.normal(0.06, 0.06) + (random.uniform(0.3, 0.9) if random.random() < 0.18 else 0),
        lean=random.normal(0, 0.08),
        crouch=random.uniform(0.3, 0.8) if random.random() < 0.16 else 0.0,
        left=left,
        right=right,
    )


def skeleton(person: Person, moment: Pose) -> dict[str, np.ndarray]:
    """f64[3] for each joint (right, up, forward, in statures from the pelvis) and for the trunk's own axes."""
    lean, bend = moment.lean, moment.bend + 0.5 * moment.crouch
    up = np.array([np.sin(lean), np.cos(lean) * np.cos(bend), np.cos(lean) * np.sin(bend)])
    side = np.array([np.cos(lean), -np.sin(lean), 0.0])
    joints = {"up": up, "side": side, "forward": np.cross(side, up), "pelvis": np.zeros(3)}
    joints["neck"] = up * (0.83 - person.leg)
    upright = up + np.array([0, 0.7, 0])
    joints["head"] = joints["neck"] + upright / np.linalg.norm(upright) * 0.085
    for name, sign, (shoulder, elbow) in (("left", -1, moment.left), ("right", 1, moment.right)):
        thigh = sign * moment.stride * np.sin(moment.phase) + moment.crouch
        lifted = max(0.0, sign * moment.stride * np.cos(moment.phase))
        hip = np.array([sign * 0.045 * person.breadth, 0.0, 0.0])
        knee = hip + person.leg / 2 * _swung(thigh, 0.0)
        ankle = knee + (person.leg / 2 - 0.03) * _swung(thigh - lifted - 1.9 * moment.crouch - 0.1, 0.0)
        toe = ankle + np.array([sign * 0.01, -0.012, 0.055])
        top = joints["neck"] - 0.025 * up + side * sign * 0.105 * person.shoulders * person.breadth
        middle = top + 0.16 * _swung(shoulder, sign * 0.1)
        hand = middle + 0.15 * _swung(shoulder + elbow, 0.0)
        joints |= {f"{name} hip": hip, f"{name} knee": knee, f"{name} ankle": ankle, f"{name} toe": toe}
        joints |= {f"{name} shoulder": top, f"{name} elbow": middle, f"{name} hand": hand}
    return joints


def _swung(forward: float, outward: float) -> np.ndarray:
    """The direction of a limb that hangs down, swung by two angles."""
    return np.array([np.sin(outward), -np.cos(forward) * np.cos(outward), np.sin(forward) * np.cos(outward)])


def limbs(person: Person, moment: Pose) -> list[Limb]:
    """All that is to be drawn, in no order."""
    joints = skeleton(person, moment)
    drawn = _trunk(person, moment, joints) + _head(person, joints) + _bag(person, moment, joints)
    for name in ("left", "right"):
        drawn += _leg(person, joints, name) + _arm(person, joints, name)
    return drawn


def _girth(half_width: float, half_depth: float, yaw: float) -> float:
    """Half the width of an elliptic body seen from an angle."""
    return float(np.hypot(half_width * np.cos(yaw), half_depth * np.sin(yaw)))


def _trunk(person: Person, moment: Pose, joints: dict[str, np.ndarray]) -> list[Limb]:
    breadth, yaw = person.breadth, moment.yaw
    chest = _girth(0.108 * breadth * person.shoulders, 0.075 * breadth, yaw)
    hip = _girth(0.09 * breadth, 0.07 * breadth, yaw)
    top, pelvis = joints["neck"] - 0.085 * joints["up"], joints["pelvis"]
    drawn = [
        Limb(pelvis, pelvis - np.array([0, 0.04, 0]), hip * 0.97, hip * 0.95, person.lower, before=0.01),
        Limb(top, 0.12 * top, chest, hip * 0.98, person.upper, before=0.02),
    ]
    knees = (joints["left knee"] + joints["right knee"]) / 2
    fall = (knees - pelvis) / max(np.linalg.norm(knees - pelvis), 1e-6)
    if person.coat:
        # Begins inside the upper garment, so that the waist does not show between them.
        waist, offset = 0.25 * top, 0.75 * float(np.linalg.norm(top))
        hem = pelvis + person.coat * fall
        drawn.append(Limb(waist, hem, hip * 1.03, hip * 1.25, person.upper, True, 0.09, offset))
    if person.cut == "skirt":
        drawn.append(Limb(pelvis, pelvis + 0.2 * fall, hip, hip * 1.4, person.lower, True, 0.08))
    return drawn


def _leg(person: Person, joints: dict[str, np.ndarray], name: str) -> list[Limb]:
    hip, knee, ankle, toe = (joints[f"{name} {part}"] for part in ("hip", "knee", "ankle", "toe"))
    thick, half = 0.053 * person.breadth, person.leg / 2
    foot = Limb(ankle, toe, thick * 0.6, thick * 0.5, person.shoe)
    if person.cut == "trousers":
        thigh = Limb(hip, knee, thick * 1.1, thick * 0.9, person.lower)
        return [thigh, Limb(knee, ankle, thick * 0.9, thick * 0.7, person.lower, offset=half), foot]
    thigh, shin = (
        Limb(hip, knee, thick, thick * 0.75, person.skin),
        Limb(knee, ankle, thick * 0.72, thick * 0.45, person.skin),
    )
    shorts = Limb(hip, knee, thick * 1.2, thick * 1.2, person.lower, flat=True, before=0.005)
    return [thigh, shin, *[shorts] * (person.cut == "shorts"), foot]


def _arm(person: Person, joints: dict[str, np.ndarray], name: str) -> list[Limb]:
    shoulder, elbow, hand = (joints[f"{name} {part}"] for part in ("shoulder", "elbow", "hand"))
    thick = 0.036 * person.breadth
    sleeved = person.sleeve > 0.9
    lower = person.upper if sleeved else person.skin
    upper = person.upper if person.sleeve > 0 else person.skin
    wrist = hand + (hand - elbow) * 0.15
    return [
        Limb(shoulder, elbow, thick * 1.15, thick, upper, before=0.04),
        Limb(elbow, hand, thick * (0.95 if sleeved else 0.75), thick * 0.75, lower, before=0.041, offset=0.16),
        Limb(hand, wrist, thick * 0.75, thick * 0.65, person.skin, before=0.041),
    ]


def _head(person: Person, joints: dict[str, np.ndarray]) -> list[Limb]:
    head, neck, up, forward = joints["head"], joints["neck"], joints["up"], joints["forward"]
    size = 0.056 * person.head
    drawn = [
        Limb(neck - 0.03 * up, head, 0.03, 0.035, person.skin),
        Limb(head + 0.012 * up, head - 0.015 * up, size * 0.95, size * 0.8, person.skin, before=0.01),
    ]
    if person.hair != "bald":
        back = head - 0.016 * forward
        length = {"short": 0.0, "bob": 0.06, "long": 0.17}[person.hair]
        drawn.append(Limb(back + 0.022 * up, back - length * up, size, size * 0.9, person.hair_colour, before=0.008))
    if person.hat:
        crown = head + 0.042 * up
        drawn.append(Limb(crown + 0.035 * up, crown, size * 0.85, size * 1.1, person.extra, True, 0.05))
        drawn.append(Limb(crown, crown + 0.075 * forward, size * 0.4, size * 0.25, person.extra, before=0.05))
    return drawn


def _bag(person: Person, moment: Pose, joints: dict[str, np.ndarray]) -> list[Limb]:
    neck, up, side, forward = (joints[part] for part in ("neck", "up", "side", "forward"))
    cloth, breadth = person.extra, person.breadth
    if person.bag == "backpack":
        girth = _girth(0.095, 0.06, moment.yaw)
        back = neck - 0.12 * forward
        drawn = [Limb(back - 0.02 * up, back - 0.24 * up, girth * 0.9, girth, cloth, True)]
        for sign in (-1, 1):
            top = neck + 0.055 * sign * side - 0.02 * up + 0.05 * forward
            end = neck + 0.075 * sign * side - 0.2 * up + 0.08 * forward
            drawn.append(Limb(top, end, 0.014, 0.014, cloth, before=0.02))
        return drawn
    if person.bag == "shoulder":
        place = joints["pelvis"] + 0.125 * breadth * side
        strap = Limb(neck - 0.09 * side * breadth + 0.08 * forward, place + 0.06 * forward, 0.013, 0.013, cloth)
        girth = _girth(0.055, 0.085, moment.yaw)
        return [strap, Limb(place + 0.02 * up, place - 0.12 * up, girth, girth * 1.1, cloth, True, 0.05)]
    if person.bag == "carrier":
        hand = joints["left hand"]
        girth = _girth(0.05, 0.08, moment.yaw)
        return [Limb(hand - [0, 0.04, 0], hand - [0, 0.18, 0], girth * 0.85, girth, cloth, True, 0.05)]
    return []
