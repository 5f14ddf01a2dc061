"""Decides from measured facts of each frame whether a clip makes a good avatar.

Everything here is a function of values: the pipeline measures, the report formats.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_runtime.preparation.faces import OPEN_GAP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_runtime.avatars.geometry import Box

TURNED_DEGREES: Final = 30.0
"""Yaw or pitch beyond which half of the mouth is foreshortened; MuseTalk has no pose input."""
SMALL_PIXELS: Final = 96
"""Shorter side of the face box: below it the generated 256 pixels are shrunk to under 3/8.

The number is judgement, the side is measured: on the astronaut of scikit-image the points are 94.6
pixels apart, the box has 94 or 95 as the picture is moved by parts of a pixel, and 93 were read off
by eye. So rounding does not decide.
"""
BLURRED: Final = 0.015
"""Sharpness (`measures.sharpness`) below which a face counts as blurred: docs/avatars.md."""
CUT_RATIO: Final = 0.02
"""Share of the face's size that may lie outside the picture: the error of the landmarks."""
PRESENCE: Final = 0.5
"""Probability of the landmark model below which its landmarks are not trusted."""
COVERED_RATIO: Final = 1 / 3
"""Redness of the lips, as a share of the clip's median, below which the mouth seems covered."""
LIP_REDNESS: Final = 3.0
"""Median redness of the lips (`measures.lip_redness`) that the check for a cover needs."""
COVERED_REDNESS: Final = -3.0
"""Redness below which lips are covered in any clip: bare lips are not greener than the cheeks."""
JUMP_RATIO: Final = 0.25
"""Movement of the box between frames, in box widths: 6 widths a second is faster than a head."""
RESIZED_RATIO: Final = 1.25
"""Ratio of the box widths of two frames that counts as a jump."""
UNUSABLE_SHARE: Final = 0.3
"""Share of frames with any refusing fault above which the clip is refused."""
_SHOWN_RANGES: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFacts:
    """What was measured in one frame; without a face all but `faces` has its default."""

    faces: int
    """Faces that the detector found."""
    box: Box | None = None
    """Face box of the followed person before smoothing; `None` if the person was not found."""
    yaw_degrees: float = 0.0
    pitch_degrees: float = 0.0
    presence: float = 1.0
    lip_gap: float = 0.0
    sharpness: float = 1.0
    lip_redness: float = 0.0
    outside_ratio: float = 0.0
    """How far landmarks lie outside the picture, as a share of the face's size."""


@dataclass(frozen=True, slots=True)
class Check:
    """One fault that frames can have."""

    name: str
    fault: str
    """Completes the sentence "12 of 250 frames ..."."""
    limit: float
    """Share of the frames above which the clip is refused; 1 never refuses."""
    advice: str
    of_clip: Callable[[Sequence[FrameFacts]], list[int]]
    """Returns the frames with the fault."""
    measured: Callable[[Sequence[FrameFacts]], str] | None = None
    """Returns what was measured in the frames with the fault, for example "median: 71 pixels"."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The frames of a clip that have one fault."""

    check: Check
    frames: tuple[int, ...]
    total: int
    measured: str = ""
    """What was measured in these frames, or nothing."""

    @property
    def share(self) -> float:
        return len(self.frames) / self.total

    @property
    def refuses(self) -> bool:
        return self.share > self.check.limit

    def __str__(self) -> str:
        return f"{self.text}: {ranges(self.frames)}"

    @property
    def text(self) -> str:
        """The sentence without the frame numbers."""
        fault = _agreeing(self.check.fault, len(self.frames))
        if self.measured:
            fault += f", {self.measured}"
        never = "this fault never refuses a clip"
        limit = f"the limit is {self.check.limit:.0%}" if self.check.limit < 1 else never
        return f"{counted(len(self.frames), self.total)} {fault} ({self.share:.0%}, {limit})"


class Grade(Enum):
    GOOD = "good"
    USABLE = "usable"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for a clip."""

    grade: Grade
    sentence: str
    findings: tuple[Finding, ...]
    """Only the faults that occur, in the order of `CHECKS`."""
    open_mouths: tuple[int, ...]
    """Frames whose mouth is open: information, not a fault."""
    total: int


def judge(facts: Sequence[FrameFacts]) -> Verdict:
    """Return the verdict on a clip of at least one frame."""
    total = len(facts)
    findings = tuple(finding for check in CHECKS if (finding := _found(check, facts)))
    opened = tuple(i for i, f in enumerate(facts) if f.box and f.lip_gap >= OPEN_GAP)
    grade, sentence = _grade(findings, total)
    return Verdict(grade, sentence, findings, opened, total)


def _found(check: Check, facts: Sequence[FrameFacts]) -> Finding | None:
    frames = tuple(check.of_clip(facts))
    if not frames:
        return None
    measured = check.measured([facts[i] for i in frames]) if check.measured else ""
    return Finding(check, frames, len(facts), measured)


def _grade(findings: Sequence[Finding], total: int) -> tuple[Grade, str]:
    refusing = [finding for finding in findings if finding.refuses]
    if refusing:
        reasons = "; ".join(str(finding) for finding in refusing)
        return Grade.REFUSED, f"The clip is refused: {reasons}."
    unusable = {i for f in findings if f.check.limit < 1 for i in f.frames}
    if len(unusable) / total > UNUSABLE_SHARE:
        have = _agreeing("have", len(unusable))
        return Grade.REFUSED, (
            f"The clip is refused: {counted(len(unusable), total)} {have} "
            f"faults ({len(unusable) / total:.0%}, the limit is {UNUSABLE_SHARE:.0%}): "
            f"{ranges(sorted(unusable))}."
        )
    faulty = {i for finding in findings for i in finding.frames}
    if faulty:
        have = _agreeing("have", len(faulty))
        return Grade.USABLE, (
            f"The clip can be used: {counted(len(faulty), total)} {have} faults, "
            "but no fault exceeds its limit."
        )
    frames = "its only frame has" if total == 1 else f"none of its {total} frames has"
    return Grade.GOOD, f"The clip is good: {frames} {'no fault' if total == 1 else 'a fault'}."


def counted(part: int, total: int) -> str:
    """Return "12 of 250 frames"."""
    return f"{part} of {total} {'frame' if total == 1 else 'frames'}"


def _agreeing(predicate: str, count: int) -> str:
    """Return a predicate that begins with "have", "show" or "seem" for `count` subjects."""
    verb, _, rest = predicate.partition(" ")
    if count == 1:
        verb = {"have": "has", "show": "shows", "seem": "seems"}[verb]
    return f"{verb} {rest}".rstrip()


def ranges(frames: Sequence[int]) -> str:
    """Return ascending frame numbers as text: `12-40, 66`; long lists are cut."""
    parts: list[list[int]] = []
    for i in frames:
        if parts and parts[-1][1] == i - 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    shown = [f"{a}-{b}" if a < b else str(a) for a, b in parts[:_SHOWN_RANGES]]
    hidden = sum(b - a + 1 for a, b in parts[_SHOWN_RANGES:])
    return ", ".join(shown) + (f" and {hidden} more" if hidden else "")


def _each(is_faulty: Callable[[FrameFacts], bool]) -> Callable[[Sequence[FrameFacts]], list[int]]:
    def of_clip(facts: Sequence[FrameFacts]) -> list[int]:
        return [i for i, fact in enumerate(facts) if fact.box is not None and is_faulty(fact)]

    return of_clip


def _without_face(facts: Sequence[FrameFacts]) -> list[int]:
    return [i for i, fact in enumerate(facts) if fact.box is None]


def _several(facts: Sequence[FrameFacts]) -> list[int]:
    return [i for i, fact in enumerate(facts) if fact.faces > 1]


def _is_turned(fact: FrameFacts) -> bool:
    return max(abs(fact.yaw_degrees), abs(fact.pitch_degrees)) > TURNED_DEGREES


def _is_small(fact: FrameFacts) -> bool:
    return fact.box is not None and min(fact.box.width, fact.box.height) < SMALL_PIXELS


def _median_size(facts: Sequence[FrameFacts]) -> str:
    sizes = [min(f.box.width, f.box.height) for f in facts if f.box is not None]
    if len(sizes) == 1:
        return f"it has {sizes[0]}"
    return f"the median is {statistics.median(sizes):.0f}"


def _covered(facts: Sequence[FrameFacts]) -> list[int]:
    """Return the frames whose landmarks are uncertain or whose lips lost their colour.

    The landmark models guess a mouth under a hand, so colour decides: lips are redder than the
    skin around them. In a clip whose lips have no colour of their own, such as a grey one, only
    a cover with a colour of its own is found.
    """
    usual = statistics.median([f.lip_redness for f in facts if f.box is not None] or [0.0])
    least = usual * COVERED_RATIO if usual >= LIP_REDNESS else COVERED_REDNESS
    return _each(lambda f: f.presence < PRESENCE or f.lip_redness < least)(facts)


def jumps(facts: Sequence[FrameFacts]) -> list[int]:
    """Return the frames whose box is far from that of the frame before."""
    found = []
    for i, (one, two) in enumerate(itertools.pairwise(facts), 1):
        if one.box is None or two.box is None:
            continue
        a, b = one.box, two.box
        dx = (a.x1 + a.x2 - b.x1 - b.x2) / 2
        dy = (a.y1 + a.y2 - b.y1 - b.y2) / 2
        ratio = max(a.width, b.width) / max(1, min(a.width, b.width))
        if math.hypot(dx, dy) > JUMP_RATIO * max(a.width, b.width) or ratio > RESIZED_RATIO:
            found.append(i)
    return found


CHECKS: Final = (
    Check(
        "no_face",
        "have no face",
        0.1,
        "Keep the whole face in the picture, or cut the clip with --start and --end.",
        _without_face,
    ),
    Check(
        "several_faces",
        "show several faces",
        1.0,
        "Film one person, or select one with --crop. The face that is largest at the start is "
        "followed.",
        _several,
    ),
    Check(
        "turned",
        f"have the face turned by more than {TURNED_DEGREES:.0f} degrees",
        0.2,
        "Look towards the camera, and put the camera at the height of the eyes.",
        _each(_is_turned),
    ),
    Check(
        "small",
        f"have a face of less than {SMALL_PIXELS} pixels",
        0.2,
        "Move closer to the camera, or film with more pixels.",
        _each(_is_small),
        _median_size,
    ),
    Check(
        "blurred",
        "have a blurred face",
        0.3,
        "Use more light, a fixed focus and a fixed camera.",
        _each(lambda fact: fact.sharpness < BLURRED),
    ),
    Check(
        "cut",
        "have a face that the edge of the picture cuts",
        0.1,
        "Leave space around the head, also below the chin.",
        _each(lambda fact: fact.outside_ratio > CUT_RATIO),
    ),
    Check(
        "covered",
        "seem to have a covered mouth",
        0.2,
        "Keep hands, microphones and hair away from the mouth.",
        _covered,
    ),
    Check(
        "jumps",
        "have a face box that jumps",
        0.05,
        "Use one uncut take without fast movements.",
        jumps,
    ),
)
"""All checks, in the order of the report."""
