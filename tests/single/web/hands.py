"""Hands of learners, and what differs from the sign that they copy: the table `hands.json`.

`compare.js` must say the same of each, and so must whatever replaces it in another language. Each case changes what
its name says of a drawn hand. `python -m tests.single.web.hands` writes the table anew.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from horovod_asl.reports.sign_pictures import LETTERS, sign_joints
from horovod_asl.synthetic.pose import POSES, Pose

TABLE = Path(__file__).with_name("hands.json")
FIST = (0.0, 82.0, 102.0, 58.0)
OPEN = (0.0, 3.0, 6.0, 4.0)


def _case(
    name: str, sign: str, pose: Pose, expected: list[str], *, left: bool = False, scale: float = 1.0
) -> dict[str, Any]:
    joints = scale * sign_joints(pose) * [-1 if left else 1, 1, 1]
    return {
        "name": name,
        "sign": sign,
        "handedness": "left" if left else "right",
        "joints": joints.round(3).tolist(),
        "differs": expected,
    }


def _turned(letter: str, view: tuple[float, float, float]) -> Pose:
    return replace(POSES[letter], view=view)


def _changed() -> list[tuple[str, str, Pose, list[str]]]:
    return [
        ("index curled", "U", replace(POSES["U"], index=FIST), ["index:straighten"]),
        ("little finger curled", "B", replace(POSES["B"], pinky=FIST), ["pinky:straighten"]),
        ("an S for an I", "I", POSES["S"], ["pinky:straighten"]),
        ("an I for an S", "S", POSES["I"], ["pinky:curl"]),
        ("two fingers open", "A", replace(POSES["A"], index=OPEN, middle=OPEN), ["index:curl", "middle:curl"]),
        ("index straight", "X", replace(POSES["X"], index=OPEN), ["index:bend_more"]),
        ("fist", "C", replace(POSES["C"], ring=(0, 95, 108, 60)), ["ring:bend_less"]),
        ("a U for a V", "V", POSES["U"], ["index:spread"]),
        ("a V for a U", "U", POSES["V"], ["index:together"]),
        ("a U for an R", "R", POSES["U"], ["index:cross"]),
        ("an R for a U", "U", POSES["R"], ["index:uncross"]),
        ("thumb on the palm", "L", replace(POSES["L"], thumb=POSES["B"].thumb), ["thumb:thumb_out"]),
        ("thumb out", "B", replace(POSES["B"], thumb=POSES["L"].thumb), ["thumb:thumb_in"]),
        ("upside down", "V", _turned("V", (0, 0, 180)), ["hand:direction"]),
        ("upright", "H", _turned("H", (10, 0, 0)), ["hand:direction"]),
        ("back of the hand", "W", _turned("W", (180, 0, 0)), ["hand:palm"]),
    ]


def cases() -> list[dict[str, Any]]:
    """Every sign as it is drawn, by both hands; and every change, by both hands."""
    as_drawn = [
        _case("as drawn", letter, POSES[letter], [], left=left, scale=0.19 if left else 1.0)
        for left in (False, True)
        for letter in LETTERS
    ]
    changed = [_case(*change, left=left) for left in (False, True) for change in _changed()]
    return [*as_drawn, *changed]


def is_the_table(found: list[dict[str, Any]]) -> bool:
    """Whether these are the cases, up to the last digit of a joint."""
    made = cases()
    return [{**one, "joints": None} for one in found] == [{**one, "joints": None} for one in made] and np.allclose(
        [one["joints"] for one in found], [one["joints"] for one in made], atol=0.0011
    )


if __name__ == "__main__":
    TABLE.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases()) + "\n]\n")
