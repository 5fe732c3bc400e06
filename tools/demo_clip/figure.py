# SPDX-License-Identifier: GPL-3.0-or-later
"""The walking figure: a child in a red hooded coat, posed at any time as arrays, feet planted while they bear weight.

Body frame: x forward, y to the figure's left, z up, metres, origin on the ground under the pelvis.
"""

from __future__ import annotations

import numpy as np

from .shapes import Floats, Shape, blocks, curve, ellipsoid, joined, rings, transform, tube

SPEED = 0.95  # metres per second
CYCLE = 0.96  # seconds for two steps
STANCE = 0.6  # part of the cycle for which a foot stands on the ground
THIGH, SHIN, ANKLE = 0.34, 0.33, 0.085
HIP_HEIGHT, HIP_SIDE = 0.735, 0.085


def foot(phase: float) -> tuple[float, float, float]:
    """Ankle x and lift, and the foot's pitch (radians, toes up positive), at a phase of the cycle in [0, 1)."""
    reach = SPEED * CYCLE * STANCE / 2
    if phase < STANCE:
        u = phase / STANCE
        heel_strike, toe_off = max(0.0, 1 - u / 0.2), max(0.0, (u - 0.6) / 0.4)
        return reach * (1 - 2 * u), 0.055 * toe_off**1.5, 0.3 * heel_strike - 0.55 * toe_off**1.3
    u = (phase - STANCE) / (1 - STANCE)
    glide = u - np.sin(2 * np.pi * u) / (2 * np.pi) * 0.6
    lift = 0.055 * (1 - u) ** 2 + 0.10 * np.sin(np.pi * u) ** 1.5
    pitch = -0.55 * (1 - u) ** 2 + 0.3 * u**3 - 0.15 * np.sin(np.pi * u)
    return reach * (2 * glide - 1), lift, pitch


def knee_between(hip: Floats, ankle: Floats) -> Floats:
    """Knee of a two-bone leg, bending forward."""
    line = ankle - hip
    distance = min(float(np.linalg.norm(line)), (THIGH + SHIN) * 0.999)
    along = (THIGH**2 - SHIN**2 + distance**2) / (2 * distance)
    out = np.sqrt(max(THIGH**2 - along**2, 0.0))
    direction = line / np.linalg.norm(line)
    forward = np.array([1.0, 0, 0]) - direction * direction[0]
    return hip + direction * along + forward / np.linalg.norm(forward) * out


def _leg(hip: Floats, phase: float, side: float) -> tuple[Shape, Shape, Floats]:
    """Trouser leg, boot, and the knee's place."""
    x, lift, pitch = foot(phase)
    ankle = np.array([x, side * 0.075, ANKLE + lift])
    knee = knee_between(hip, ankle)
    path = curve([hip, (hip + knee) / 2, knee, (knee + ankle) / 2], 14)
    trouser = tube(path, np.interp(np.linspace(0, 1, 14), [0, 0.5, 0.75, 1], [0.088, 0.072, 0.062, 0.066]), 18)
    calf = knee + (ankle - knee) * 0.38
    shaft = tube(
        curve([calf, calf * 0.5 + ankle * 0.5, ankle, ankle - np.array([0, 0, 0.045])], 12),
        np.interp(np.linspace(0, 1, 12), [0, 0.06, 0.1, 0.5, 0.75, 1], [0.074, 0.080, 0.075, 0.066, 0.060, 0.050]),
        18,
    )
    sole = ellipsoid((0.128, 0.052, 0.05), 0.75).moved(transform((0.045, 0, -0.038)))
    toe = ellipsoid((0.07, 0.05, 0.052), 0.85).moved(transform((0.095, 0, -0.028)))
    heel = ellipsoid((0.062, 0.050, 0.070), 0.85).moved(transform((-0.022, 0, -0.008)))
    shoe = joined([sole, toe, heel]).moved(transform(ankle, (0, -pitch, side * 0.08)))
    return trouser, joined([shaft, shoe]), knee


def _coat(knees: dict[float, Floats], lean: float, twist: float) -> tuple[Shape, Shape]:
    """A-line coat from collar to hem, whose hem follows the knees and falls in soft folds; and its trimmings."""
    levels = np.array([1.215, 1.19, 1.155, 1.11, 1.02, 0.90, 0.78, 0.66, 0.56, 0.49, 0.475])
    depth = np.array([0.060, 0.088, 0.108, 0.125, 0.138, 0.142, 0.155, 0.176, 0.198, 0.215, 0.216])
    width = np.array([0.070, 0.115, 0.158, 0.178, 0.178, 0.172, 0.182, 0.200, 0.220, 0.236, 0.237])
    u = np.linspace(0, 1, 44)
    grid = np.linspace(0, 1, len(levels))
    z, rx, ry = (np.interp(u, grid, v) for v in (levels, depth, width))
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    fall = np.clip((0.95 - z) / 0.5, 0, 1)[:, None] ** 1.4
    folds = 1 + fall * (0.055 * np.sin(7 * angle + 0.6) + 0.03 * np.sin(11 * angle + 2.0 + 3 * twist))
    crumple = 0.010 * np.sin(3 * angle + 26 * z[:, None]) * np.clip(1 - fall, 0.2, 1)
    turn = angle + twist * (1 - fall) * 0.5
    x, y = (rx[:, None] + crumple) * folds * np.cos(turn), (ry[:, None] + crumple) * folds * np.sin(turn)
    left, right = knees[1.0][0], knees[-1.0][0]
    ahead, behind = max(left, right, 0.1), min(left, right, 0.0)
    # The hem is pushed out where a thigh presses from inside: front by the leading knee, back by the trailing one.
    share = (1 + np.cos(angle)) / 2
    side = np.sin(angle)
    swing = 0.5 * (left + right) * 0.5 + 0.28 * side * (left - right) * 0.5
    push = share * (ahead - 0.1) * 0.6 + (1 - share) * (behind * 0.55 - 0.02)
    x = x + fall * (swing + push) + lean * (z[:, None] - 0.7)
    points = np.stack([x, y, np.broadcast_to(z[:, None], x.shape) - 0.012 * fall * np.cos(angle - 0.3)], -1)
    # Trimmings sit on the coat's own grid, so that they move with the cloth: pocket flaps, a front placket, buttons.
    outward = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    flaps = []
    for column in (13, 59):
        columns = np.arange(column - 4, column + 5)
        patch = points[24:29][:, columns] + 0.010 * outward[columns]
        inner = points[24:29][:, columns] - 0.004 * outward[columns]
        outline = np.concatenate([patch, inner[:, ::-1]], 1)
        flaps.append(rings(outline[::-1]))
    buttons = [
        ellipsoid((0.007, 0.016, 0.016), segments=12).moved(transform(points[row, 2] + 0.006 * outward[2]))
        for row in (12, 17, 22, 27)
    ]
    hem = np.concatenate([points[-2], points[-2][:2]])
    flaps.append(tube(hem, 0.008, 6))
    return joined([rings(points[::-1], cap=False), *flaps]), joined(buttons)


def _hood(nod: float) -> tuple[Shape, Shape, Shape, Shape]:
    """Hood, face, hair and scarf, about the neck (0, 0, 0)."""
    tilt = np.linspace(0, 1, 22)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    # Sections stand upright, from the opening at the face (first) to the drooping point at the back (last).
    forward = np.interp(tilt, [0, 0.15, 0.5, 0.8, 1], [0.115, 0.095, 0.0, -0.105, -0.165])
    half_width = np.interp(tilt, [0, 0.1, 0.35, 0.6, 0.85, 1], [0.094, 0.112, 0.134, 0.120, 0.062, 0.012])
    half_height = np.interp(tilt, [0, 0.1, 0.35, 0.6, 0.85, 1], [0.128, 0.140, 0.158, 0.142, 0.075, 0.014])
    middle = np.interp(tilt, [0, 0.35, 0.7, 1], [0.150, 0.150, 0.142, 0.120])
    crown = 0.03 * np.clip(np.sin(angle), 0, 1) ** 2
    y = half_width[:, None] * np.cos(angle)
    z = middle[:, None] + half_height[:, None] * np.sin(angle)
    x = forward[:, None] + (1 - tilt[:, None]) ** 4 * crown + 0.006 * np.sin(5 * angle) * tilt[:, None]
    shell = rings(np.stack([x, y, z], -1)[:, ::-1], cap=False)
    rim_path = np.stack([x[0], y[0], z[0]], -1)
    rim = tube(np.concatenate([rim_path, rim_path[:2]]), 0.011, 8)
    face = ellipsoid((0.098, 0.084, 0.118)).moved(transform((0.022, 0, 0.145)))
    nose = ellipsoid((0.020, 0.014, 0.016)).moved(transform((0.122, 0, 0.132)))
    chin = ellipsoid((0.045, 0.045, 0.035)).moved(transform((0.062, 0, 0.065)))
    hair = ellipsoid((0.104, 0.093, 0.085)).moved(transform((0.022, 0, 0.205), (0, 0.35, 0)))
    locks = [
        ellipsoid((0.028, 0.022, 0.085)).moved(transform((0.075, s * 0.072, 0.13), (s * 0.1, 0.1, 0))) for s in (-1, 1)
    ]
    around = np.linspace(0, 2 * np.pi, 30)
    loop = np.stack([0.020 + 0.098 * np.cos(around), 0.094 * np.sin(around), 0.012 * np.cos(around) + 0.005], -1)
    scarf = joined([tube(loop, 0.036, 14), tube(loop * [0.96, 0.96, 1] + [0.004, 0, 0.032], 0.030, 14)])
    head = transform((0, 0, 0), (0, nod, 0))
    return (
        joined([shell, rim]).moved(head),
        joined([face, nose, chin]).moved(head),
        joined([hair, *locks]).moved(head),
        scarf,
    )


def _arm(side: float, swing: float) -> tuple[Shape, Shape]:
    """Sleeve and mitten, about the shoulders' middle (0, 0, 0); swing in radians, forward positive."""
    shoulder = np.array([0.0, side * 0.150, -0.045])
    bend = 0.35 + 0.35 * max(swing, 0.0)
    out = side * 0.16
    upper = np.array([np.sin(swing), out, -np.cos(swing)]) * 0.225
    lower = np.array([np.sin(swing + bend), out * 0.6, -np.cos(swing + bend)]) * 0.20
    elbow, wrist = shoulder + upper, shoulder + upper + lower
    path = curve([shoulder - upper * 0.15, shoulder + upper * 0.4, elbow, elbow + lower * 0.5, wrist], 26)
    u = np.linspace(0, 1, 26)
    radii = np.interp(u, [0, 0.1, 0.5, 0.9, 0.93, 1], [0.045, 0.074, 0.061, 0.060, 0.068, 0.066])
    sleeve = tube(path, radii + 0.004 * np.sin(38 * u) * (u > 0.3), 20)
    aim = float(np.arctan2(lower[0], -lower[2]))
    hand = joined(
        [
            ellipsoid((0.034, 0.026, 0.058), 0.9).moved(transform(wrist + lower * 0.22, (0, -aim, 0))),
            ellipsoid((0.014, 0.014, 0.034)).moved(transform(wrist + lower * 0.14 + [0.03, 0, 0], (0, -aim + 0.5, 0))),
        ]
    )
    return sleeve, hand


def _backpack() -> tuple[Shape, Shape]:
    """Leather satchel and its straps, about the shoulders' middle (0, 0, 0)."""
    bag = ellipsoid((0.075, 0.130, 0.155), 0.42).moved(transform((-0.195, 0, -0.19)))
    flap = ellipsoid((0.082, 0.134, 0.075), 0.42).moved(transform((-0.197, 0, -0.105)))
    pocket = ellipsoid((0.030, 0.085, 0.055), 0.45).moved(transform((-0.275, 0, -0.255)))
    roll = ellipsoid((0.055, 0.150, 0.055), 0.6).moved(transform((-0.185, 0, -0.005)))
    over = np.array([(-0.12, 0.085, -0.02), (-0.03, 0.100, 0.055), (0.085, 0.105, 0.0), (0.125, 0.11, -0.10)])
    under = np.array([(0.10, 0.145, -0.22), (-0.10, 0.13, -0.28)])
    path = curve(np.concatenate([over, under]), 26)
    straps = [tube(path * [1, s, 1], 0.013, 8) for s in (-1.0, 1.0)]
    buckles = blocks([(-0.283, s * 0.07, -0.165) for s in (-1, 1)], [(0.012, 0.022, 0.055)], 0.004)
    return joined([bag, flap, pocket]), joined([*straps, Shape(buckles.vertices, buckles.faces), roll])


def pose(seconds: float) -> dict[str, Shape]:
    """The figure's parts in the body frame at a time: cloth names to shapes whose faces never change."""
    phase = (seconds / CYCLE) % 1.0
    beat = 4 * np.pi * seconds / CYCLE
    bob = -0.014 * np.cos(beat - 0.5)
    pelvis = np.array([0.0, 0.012 * np.sin(beat / 2), HIP_HEIGHT + bob - 0.01])
    sides = {1.0: phase, -1.0: (phase + 0.5) % 1.0}
    trousers, boots, knees = [], [], {}
    for side, own in sides.items():
        trouser, boot, knees[side] = _leg(pelvis + np.array([0, side * HIP_SIDE, 0]), own, side)
        trousers.append(trouser)
        boots.append(boot)
    stride = float(np.cos(2 * np.pi * (phase + 0.02)))  # +1 when the left foot leads
    lean = 0.05
    upper = transform((lean * 0.48, 0, bob * 1.1), (0, 0, 0.07 * stride))
    shoulders = upper @ transform((0, 0, 1.175))
    neck = upper @ transform((0.012, 0, 1.205))
    hood, face, hair, scarf = _hood(0.06 + 0.02 * float(np.cos(beat)))
    sleeves, hands = zip(*(_arm(side, 0.06 - side * 0.48 * stride) for side in (1.0, -1.0)), strict=True)
    bag, straps = _backpack()
    coat, buttons = (part.moved(transform((0, 0, bob))) for part in _coat(knees, lean, 0.14 * stride))
    return {
        "coat": joined([coat, hood.moved(neck)]),
        "sleeves": joined(sleeves).moved(shoulders),
        "hands": joined(hands).moved(shoulders),
        "buttons": buttons,
        "trousers": joined(trousers),
        "boots": joined(boots),
        "face": face.moved(neck),
        "hair": hair.moved(neck),
        "scarf": scarf.moved(neck),
        "bag": bag.moved(shoulders),
        "straps": straps.moved(shoulders),
    }
