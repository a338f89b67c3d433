"""The made-up language of the demo: a table of phones and a fixed list of words that all speakers share."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from mrl.randomness import numpy_generator

NUM_WORDS = 60


class Phone(NamedTuple):
    """Targets of one speech sound in a neutral adult tract. Levels are amplitudes, 1 for a stressed vowel."""

    formants_hz: tuple[float, float, float]
    seconds: float
    voicing: float = 1.0
    frication: float = 0.0
    """Noise made at a constriction, which passes the mouth in front of it alone."""
    frication_hz: float = 3000.0
    frication_bandwidth_hz: float = 2000.0
    aspiration: float = 0.0
    """Noise made at the glottis, which passes the whole tract."""
    nasal_zero_hz: float = 0.0
    """Antiresonance of a closed mouth behind an open nose; 0: the nose is shut."""


# Vowels after Peterson and Barney, "Control methods used in a study of the vowels", 1952 (men), rounded;
# consonants after Klatt, "Software for a cascade/parallel formant synthesizer", 1980, simplified.
PHONES: dict[str, Phone] = {
    "i": Phone((280, 2250, 2900), 0.11),
    "e": Phone((400, 2050, 2600), 0.11),
    "ae": Phone((620, 1750, 2450), 0.13),
    "a": Phone((750, 1300, 2500), 0.13),
    "aa": Phone((640, 1050, 2450), 0.13),
    "o": Phone((450, 850, 2450), 0.12),
    "u": Phone((310, 870, 2250), 0.11),
    "y": Phone((290, 1700, 2150), 0.11),
    "er": Phone((490, 1350, 1750), 0.12),
    "schwa": Phone((500, 1450, 2450), 0.07),
    "w": Phone((300, 700, 2200), 0.06, voicing=0.7),
    "j": Phone((270, 2200, 3000), 0.06, voicing=0.7),
    "l": Phone((360, 1200, 2700), 0.06, voicing=0.6),
    "r": Phone((350, 1200, 1650), 0.06, voicing=0.7),
    "m": Phone((280, 1100, 2200), 0.07, voicing=0.5, nasal_zero_hz=1000),
    "n": Phone((280, 1600, 2500), 0.07, voicing=0.5, nasal_zero_hz=1600),
    "ng": Phone((280, 2000, 2700), 0.07, voicing=0.5, nasal_zero_hz=2800),
    "s": Phone((320, 1450, 2550), 0.10, 0.0, 0.45, 5800, 1500),
    "sh": Phone((320, 1750, 2550), 0.10, 0.0, 0.45, 3200, 1100),
    "f": Phone((320, 1100, 2200), 0.09, 0.0, 0.12, 6200, 5000),
    "z": Phone((300, 1450, 2550), 0.07, 0.35, 0.22, 5800, 1500),
    "v": Phone((300, 1100, 2200), 0.06, 0.45, 0.06, 6200, 5000),
    "h": Phone((500, 1450, 2450), 0.06, voicing=0.05, aspiration=0.25),
    "closure_p": Phone((260, 800, 2200), 0.06, voicing=0.0),
    "closure_t": Phone((260, 1700, 2600), 0.06, voicing=0.0),
    "closure_k": Phone((260, 1900, 2300), 0.06, voicing=0.0),
    "closure_b": Phone((260, 800, 2200), 0.05, voicing=0.15),
    "closure_d": Phone((260, 1700, 2600), 0.05, voicing=0.15),
    "closure_g": Phone((260, 1900, 2300), 0.05, voicing=0.15),
    "release_p": Phone((350, 900, 2250), 0.03, 0.0, 0.15, 900, 900, 0.20),
    "release_t": Phone((350, 1700, 2600), 0.03, 0.0, 0.50, 4500, 1800, 0.15),
    "release_k": Phone((350, 1800, 2300), 0.04, 0.0, 0.40, 1900, 600, 0.20),
    "release_b": Phone((330, 900, 2250), 0.012, 0.3, 0.12, 800, 900),
    "release_d": Phone((330, 1700, 2600), 0.012, 0.3, 0.35, 4200, 1800),
    "release_g": Phone((330, 1800, 2300), 0.015, 0.3, 0.30, 1900, 600),
    "silence": Phone((500, 1450, 2450), 0.10, voicing=0.0),
}

VOWELS = ("i", "e", "ae", "a", "aa", "o", "u", "y", "er", "schwa")
_ONSETS = (
    *((f"closure_{place}", f"release_{place}") for place in "ptkbdg"),
    *((name,) for name in ("s", "sh", "f", "z", "v", "h", "m", "n", "w", "j", "l", "r")),
)
_CODAS = ((), (), (), ("n",), ("m",), ("ng",), ("l",), ("s",), ("sh",), ("closure_t", "release_t"))


@cache
def words() -> tuple[tuple[str, ...], ...]:
    """The words, each as names of phones: the same in every corpus, so that content names no speaker."""
    generator = numpy_generator("demo words")
    return tuple(_word(generator) for _ in range(NUM_WORDS))


def _word(generator: np.random.Generator) -> tuple[str, ...]:
    phones: list[str] = []
    for _ in range(generator.integers(1, 4)):
        phones += _ONSETS[generator.integers(len(_ONSETS))]
        phones.append(VOWELS[generator.integers(len(VOWELS))])
        phones += _CODAS[generator.integers(len(_CODAS))]
    return tuple(phones)
