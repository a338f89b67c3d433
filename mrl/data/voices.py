"""Invented speakers and recordings: the numbers that tell voices, rooms and microphones from one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, rfft, rfftfreq

from mrl.audio import SAMPLE_RATE
from mrl.data.phones import VOWELS
from mrl.randomness import numpy_generator

NUM_FORMANTS = 7
NUM_ACCENTS = 4
NUM_ROOMS = 24

_RESPONSE_SECONDS = 0.4


@dataclass(frozen=True, eq=False)
class Voice:
    """What makes a speaker: every field is drawn independently of the others."""

    pitch_hz: float
    pitch_range_semitones: float
    """Standard deviation of the intonation."""
    declination_semitones: float
    """Fall of the pitch from the start to the end of an utterance."""
    jitter: float
    """Standard deviation of a glottal pulse's time, in periods."""
    shimmer: float
    """Standard deviation of a glottal pulse's amplitude."""
    alternation: float
    """By how much every second pulse is weaker and late: a rough voice."""
    glottal_formant: float
    """Frequency of the strongest part of the source over the pitch; low for a lax, open glottis."""
    tilt_hz: float
    """The source falls by another 6 dB per octave above this frequency."""
    breath: float
    """Amplitude of the noise in voiced sounds, over that of the voiced source."""
    tract_scale: float
    """Factor on all formants: long tracts are below 1."""
    formant_scales: np.ndarray
    """``[K]`` factor on each formant."""
    bandwidth_scales: np.ndarray
    """``[K]`` factor on the bandwidth of each formant."""
    vowel_spread: float
    """Distance of vowels from the neutral one, over the standard distance."""
    accent: np.ndarray
    """``[NUM_ACCENTS]`` weights of the ways in which vowels may be pronounced differently."""
    nasality: float
    """How far vowels are nasal, 0 to 1."""
    nasal_scale: float
    """Factor on the frequencies of the nose."""
    cavity_hz: float
    """Antiresonance of the cavities beside the larynx."""
    cavity_width: float
    """Bandwidth of that antiresonance, over its frequency."""
    frication_scale: float
    """Factor on the frequencies of fricatives."""
    frication: float
    """Factor on the amplitude of fricatives and bursts."""
    seconds_scale: float
    """Factor on the length of every sound; slow talkers are above 1."""
    glide_seconds: float
    """How smoothly one sound passes into the next."""


@dataclass(frozen=True, eq=False)
class Session:
    """What the recordings of one sitting share: place, microphone and the speaker's state that day."""

    response: np.ndarray
    """``[L]`` impulse response of room and microphone."""
    snr_db: float
    noise_exponent: float
    """Background noise has the power spectrum 1 / f^exponent."""
    level_db: float
    """Root mean square of the recording, dB re full scale."""
    pitch_semitones: float
    """By how much the pitch is higher than usual."""
    effort_octaves: float
    """By how much the source's tilt sets in higher than usual."""
    seconds_scale: float
    """Factor on the length of every sound."""


def speaker_voice(seed: int, speaker_index: int) -> Voice:
    """The voice of speaker ``speaker_index``; ``seed`` chooses the population."""
    draw = numpy_generator(seed, "demo voice", speaker_index)

    def even(low: float, high: float) -> float:
        return float(draw.uniform(low, high))

    def octaves(low: float, high: float) -> float:
        return float(np.exp(draw.uniform(np.log(low), np.log(high))))

    return Voice(
        pitch_hz=octaves(100.0, 190.0),
        pitch_range_semitones=even(0.8, 3.0),
        declination_semitones=even(0.0, 5.0),
        jitter=octaves(0.003, 0.03),
        shimmer=octaves(0.02, 0.2),
        alternation=even(0.0, 0.25),
        glottal_formant=octaves(0.7, 1.8),
        tilt_hz=octaves(1800.0, 6000.0),
        breath=octaves(0.008, 0.05),
        tract_scale=octaves(0.95, 1.06),
        formant_scales=np.exp(0.035 * draw.uniform(-1.0, 1.0, NUM_FORMANTS)),
        bandwidth_scales=np.exp(0.4 * draw.uniform(-1.0, 1.0, NUM_FORMANTS)),
        vowel_spread=even(0.8, 1.15),
        accent=draw.uniform(-1.0, 1.0, NUM_ACCENTS),
        nasality=even(0.0, 0.5),
        nasal_scale=octaves(0.85, 1.2),
        cavity_hz=octaves(3600.0, 5600.0),
        cavity_width=octaves(0.04, 0.16),
        frication_scale=octaves(0.85, 1.18),
        frication=octaves(0.7, 1.4),
        seconds_scale=octaves(0.8, 1.25),
        glide_seconds=octaves(0.012, 0.03),
    )


def recording_session(seed: int, speaker_index: int, session_index: int) -> Session:
    """Sitting ``session_index`` of a speaker. Rooms are shared: the sittings of one speaker are in different
    rooms (the first ``NUM_ROOMS`` of them), and different speakers meet in one room.
    """
    rooms = numpy_generator(seed, "demo rooms of", speaker_index).permutation(NUM_ROOMS)
    draw = numpy_generator(seed, "demo session", speaker_index, session_index)
    return Session(
        response=_with_microphone(_room_response(seed, int(rooms[session_index % NUM_ROOMS])), draw),
        snr_db=float(draw.uniform(10.0, 28.0)),
        noise_exponent=float(draw.uniform(0.6, 1.8)),
        level_db=float(draw.uniform(-34.0, -20.0)),
        pitch_semitones=float(draw.normal(0.0, 1.5)),
        effort_octaves=float(draw.normal(0.0, 0.4)),
        seconds_scale=float(np.exp(draw.normal(0.0, 0.05))),
    )


def accent_directions() -> np.ndarray:
    """``[NUM_ACCENTS, len(VOWELS), 2]``: how each accent moves the logarithms of F1 and F2 of each vowel."""
    return 0.06 * numpy_generator("demo accents").standard_normal((NUM_ACCENTS, len(VOWELS), 2))


def _room_response(seed: int, room: int) -> np.ndarray:
    """A direct sound and a tail of noise that decays by 60 dB in 0.2 to 0.7 s, ``[L]``."""
    draw = numpy_generator(seed, "demo room", room)
    decay_seconds = draw.uniform(0.2, 0.7)
    direct_to_reverberant_db = draw.uniform(-3.0, 9.0)
    num_samples = round(_RESPONSE_SECONDS * SAMPLE_RATE)
    seconds = np.arange(num_samples) / SAMPLE_RATE
    tail = draw.standard_normal(num_samples) * 10.0 ** (-3.0 * seconds / decay_seconds)
    tail[0] = 0.0
    tail *= 10.0 ** (-direct_to_reverberant_db / 20.0) / np.linalg.norm(tail)
    tail[0] = 1.0
    return tail


def _with_microphone(response: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """``response`` ``[L]`` heard through a microphone with limits, a tilt and a broad resonance, float32."""
    size = 2 * len(response)
    hertz = np.maximum(rfftfreq(size, 1.0 / SAMPLE_RATE), 1.0)
    low_hz, high_hz = draw.uniform(40.0, 250.0), draw.uniform(4500.0, 8000.0)
    tilt_db = draw.uniform(-4.0, 4.0)
    centre_hz, width_octaves = np.exp(draw.uniform(np.log(500.0), np.log(6000.0))), draw.uniform(0.3, 1.0)
    peak_db = draw.uniform(-8.0, 8.0)
    decibels = tilt_db * np.log2(hertz / 1000.0)
    decibels += peak_db * np.exp(-0.5 * (np.log2(hertz / centre_hz) / width_octaves) ** 2)
    decibels -= 10.0 * np.log10(1.0 + (low_hz / hertz) ** 4) + 10.0 * np.log10(1.0 + (hertz / high_hz) ** 16)
    heard = irfft(rfft(response, size) * 10.0 ** (decibels / 20.0), size)
    return heard[: len(response)].astype(np.float32)
