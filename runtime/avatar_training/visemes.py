"""Phonemes to mouth shapes: a target per phoneme, blended by weighted Gaussian coarticulation."""

# ruff: noqa: RUF001 - the letters of the phonetic alphabet look like others

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Floats = npt.NDArray[np.float32]

MOUTH: Final = ("open", "wide", "round", "teeth", "tongue")
"""Columns of a mouth-shape array; each in [0, 1]."""
REST: Final = np.array([0.0, 0.5, 0.0, 0.0, 0.0], dtype=np.float32)
STEP_S: Final = 0.02
"""One row of a mouth-shape array; also one step of the audio encoder."""
_GRID: Final = 4  # fine samples per step
_SIGMA_S: Final = 0.030  # lips move about 70 ms before and after a sound


@dataclass(frozen=True, slots=True)
class Phoneme:
    """A phoneme of the synthesizer: IPA symbol (empty for a pause), start and end in seconds."""

    symbol: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Viseme:
    """The target shape of the mouth during one sound, and its weight."""

    open: float
    wide: float = 0.5
    round: float = 0.0
    teeth: float = 0.0
    tongue: float = 0.0
    weight: float = 1.0


_PAUSE: Final = Viseme(0.0, weight=1.5)
_BY_LETTERS: Final[Mapping[str, Viseme]] = {
    # Vowels: jaw height from the IPA chart, lips from its rounding.
    "aɑ": Viseme(1.0, 0.5, 0.0, 0.15, 0.1),
    "æ": Viseme(0.85, 0.75, 0.0, 0.35, 0.15),
    "ʌɐ": Viseme(0.7, 0.5, 0.0, 0.15, 0.1),
    "ɔɒ": Viseme(0.8, 0.3, 0.5, 0.0, 0.05),
    "oɤ": Viseme(0.55, 0.2, 0.8),
    "ʊ": Viseme(0.35, 0.25, 0.75),
    "uɯ": Viseme(0.25, 0.1, 1.0),
    "yø": Viseme(0.3, 0.2, 0.9),
    "œ": Viseme(0.55, 0.3, 0.6),
    "əɵ": Viseme(0.42, 0.5, 0.0, 0.1, 0.1, weight=0.7),
    "ɜɝɚ": Viseme(0.45, 0.4, 0.3, 0.1, 0.1),
    "ɛe": Viseme(0.6, 0.75, 0.0, 0.35, 0.2),
    "ɪɨ": Viseme(0.38, 0.75, 0.0, 0.4, 0.2),
    "i": Viseme(0.28, 1.0, 0.0, 0.6, 0.15),
    # Consonants: closed lips have the largest weight, throat sounds follow their neighbors.
    "pbm": Viseme(0.0, 0.5, 0.0, weight=4.0),
    "fvβɱ": Viseme(0.1, 0.55, 0.0, 0.9, weight=2.5),
    "θð": Viseme(0.25, 0.55, 0.0, 0.5, 0.95, weight=1.5),
    "sz": Viseme(0.16, 0.7, 0.0, 0.9, weight=1.5),
    "ʃʒɕʑç": Viseme(0.22, 0.2, 0.6, 0.8, weight=1.5),
    "tdnɾɲ": Viseme(0.24, 0.55, 0.0, 0.5, 0.5),
    "lɫʎ": Viseme(0.32, 0.55, 0.0, 0.3, 0.7),
    "ɹrʁ": Viseme(0.28, 0.3, 0.5, 0.3, weight=1.2),
    "wɥ": Viseme(0.14, 0.05, 1.0, weight=2.0),
    "jʝ": Viseme(0.26, 0.85, 0.0, 0.5, 0.2),
    "kɡgŋxɣqχ": Viseme(0.32, 0.5, 0.0, 0.15, 0.1, weight=0.5),
    "hɦʔ": Viseme(0.4, 0.5, weight=0.15),
}
_VISEMES: Final = {letter: v for letters, v in _BY_LETTERS.items() for letter in letters}


def visemes(symbol: str) -> Sequence[Viseme]:
    """Return the shapes of a sound: two for a diphthong or an affricate."""
    letters = unicodedata.normalize("NFD", symbol)
    found = [_VISEMES[letter] for letter in letters if letter in _VISEMES]
    return found or [_PAUSE]


def mouth_track(phonemes: Sequence[Phoneme], steps: int) -> Floats:
    """Return `(steps, 5) float32`: the mouth at the middle of each 20 ms step.

    It is a Gaussian-weighted average of the targets: the dominance functions of Cohen and Massaro
    (1993) with Gaussians instead of exponentials, so strong sounds influence weak neighbors.
    """
    fine = steps * _GRID
    targets = np.tile(REST, (fine, 1))
    weights = np.full(fine, _PAUSE.weight, dtype=np.float32)
    for phoneme in phonemes:
        shapes = visemes(phoneme.symbol)
        edges = np.linspace(phoneme.start, phoneme.end, len(shapes) + 1) / STEP_S * _GRID
        for shape, left, right in zip(shapes, edges[:-1], edges[1:], strict=True):
            span = slice(max(round(left), 0), min(round(right), fine))
            targets[span] = (shape.open, shape.wide, shape.round, shape.teeth, shape.tongue)
            weights[span] = shape.weight
    reach = round(3 * _SIGMA_S / STEP_S * _GRID)
    at = np.arange(-reach, reach + 1) * (STEP_S / _GRID)
    bell = np.exp(-0.5 * (at / _SIGMA_S) ** 2)

    def smooth(signal: Floats) -> Floats:
        return np.convolve(np.pad(signal, reach, mode="edge"), bell, mode="valid")

    total = smooth(weights)
    track = np.stack([smooth(targets[:, c] * weights) / total for c in range(len(MOUTH))], axis=1)
    return track[_GRID // 2 :: _GRID].astype(np.float32)
