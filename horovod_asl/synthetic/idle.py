"""What a hand does that signs nothing: it rests, waves, scratches, types, points, and goes out of sight.

None of these is a letter that is held: an open hand keeps its thumb and fingers apart, and a pointing finger moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from horovod_asl.synthetic.motion import Place, Posture, Track
from horovod_asl.synthetic.pose import DIGITS, POSES, Pose
from horovod_asl.synthetic.spelling import BELOW, RELAXED, Signer

_SPREAD = Pose((50, 15, 0, 2, 2), (13, 4, 8, 5), (3, 4, 8, 5), (-6, 5, 8, 5), (-18, 5, 8, 5))
_CLAW = Pose((45, 35, 40, 15, 25), (8, 30, 45, 25), (2, 30, 45, 25), (-4, 32, 45, 25), (-10, 34, 45, 25))
_TYPING = replace(_CLAW, view=(-10.0, 72.0, 8.0))
_POINTING = replace(POSES["D"], thumb=(25, 45, 20, 30, 40), view=(20.0, 55.0, -30.0))
_BENT = np.array([0.0, 1.0, 0.7, 0.4])  # how much of a bend is the abduction's and the three joints'
_LONGEST_S = 7.0


def idle(signer: Signer, seconds: float, rng: np.random.Generator) -> Track:
    """Activities in random order, each of some seconds, until the time is over."""
    track = Track(signer.lowered(BELOW), rng)
    order: list[Callable[[Track, Signer, float, np.random.Generator], None]] = []
    while track.end_s < seconds:
        order = order or [_ACTIVITIES[at] for at in rng.permutation(len(_ACTIVITIES))]
        order.pop()(track, signer, float(rng.uniform(3.0, _LONGEST_S)), rng)
    return track


def _at(signer: Signer, right: float, down: float) -> Place:
    """A place so many hand lengths from the signer's own."""
    return signer.home[0] + right * signer.hand_length, signer.home[1] + down * signer.hand_length


def _bent(pose: Pose, degrees: float, *fingers: str) -> Pose:
    """These fingers, or all, flexed more."""
    for name in fingers or DIGITS[1:]:
        pose = replace(pose, **{name: tuple(np.array(getattr(pose, name)) + degrees * _BENT)})
    return pose


def _drawn(rng: np.random.Generator, *ranges: tuple[float, float]) -> tuple[float, ...]:
    return tuple(float(rng.uniform(*limits)) for limits in ranges)


def _rest(track: Track, signer: Signer, seconds: float, rng: np.random.Generator) -> None:
    """Open and low, as on a table, shifting now and then."""
    until = track.end_s + seconds
    while track.end_s < until:
        pose = replace(RELAXED, view=_drawn(rng, (10, 60), (10, 45), (-10, 40)))
        track.move(Posture(pose, _at(signer, *rng.uniform([-0.2, 0.3], [0.2, 0.6]))), 0.7)
        track.hold(float(rng.uniform(0.8, 2.0)))


def _wave(track: Track, signer: Signer, seconds: float, rng: np.random.Generator) -> None:
    """An open hand, to and fro."""
    until, side = track.end_s + seconds, 1
    track.move(Posture(_SPREAD, signer.home), 0.5)
    while track.end_s < until:
        turned = replace(_SPREAD, view=(0.0, 5.0, side * float(rng.uniform(15, 30))))
        track.move(Posture(turned, _at(signer, -0.15 * side, 0.0)), float(rng.uniform(0.18, 0.3)))
        side = -side


def _scratch(track: Track, signer: Signer, seconds: float, rng: np.random.Generator) -> None:
    """A claw beside the head, whose fingers bend and stretch."""
    until = track.end_s + min(seconds, 4.0)
    view = (float(rng.uniform(110, 160)), -15.0, -30.0)
    place = _at(signer, 0.6, -0.7)
    track.move(Posture(replace(_CLAW, view=view), place), 0.6)
    while track.end_s < until:
        for bend in (25.0, 0.0):
            pose = replace(_bent(_CLAW, bend), view=view)
            track.move(Posture(pose, (place[0], place[1] + 0.0012 * bend)), float(rng.uniform(0.1, 0.16)))


def _type(track: Track, signer: Signer, seconds: float, rng: np.random.Generator) -> None:
    """Above a keyboard, the palm down: one finger after the other strikes."""
    until = track.end_s + seconds
    track.move(Posture(_TYPING, _at(signer, 0.0, 0.7)), 0.6)
    while track.end_s < until:
        struck = _bent(_TYPING, 30.0, DIGITS[1 + rng.integers(4)])
        place = _at(signer, float(rng.uniform(-0.3, 0.3)), 0.7)
        track.move(Posture(struck, place), 0.1)
        track.move(Posture(_TYPING, place), 0.1)


def _point(track: Track, signer: Signer, seconds: float, rng: np.random.Generator) -> None:
    """A finger at this and that, forward, without a pause."""
    until = track.end_s + min(seconds, 4.0)
    while track.end_s < until:
        view = _drawn(rng, (-20, 40), (35, 75), (-60, 40))
        place = _at(signer, *rng.uniform([-0.7, -0.4], [0.7, 0.4]))
        track.move(Posture(replace(_POINTING, view=view), place), float(rng.uniform(0.3, 0.6)))


def _leave(track: Track, signer: Signer, seconds: float, rng: np.random.Generator) -> None:
    """Out of the frame."""
    track.move(signer.lowered(BELOW), float(rng.uniform(0.4, 0.8)))
    track.hold(min(seconds, 3.0))


_ACTIVITIES = (_rest, _wave, _scratch, _type, _point, _leave)
