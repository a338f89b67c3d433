"""Speech-like sound from a source and a filter: what one invented speaker says in one recording.

A train of glottal pulses and noise passes a cascade of formant resonances (Fant, "Acoustic theory of speech
production", 1960; Klatt, "Software for a cascade/parallel formant synthesizer", 1980). The resonances change
every 10 ms and are applied to overlapping frames in the frequency domain, which is some hundred times
faster than real time on one core.

Shapes: T samples, N frames, K formants, P glottal pulses, S speech sounds in the utterance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter, oaconvolve

from mrl.audio import SAMPLE_RATE
from mrl.data.phones import PHONES, VOWELS, Phone, words
from mrl.data.voices import Session, Voice, accent_directions
from mrl.randomness import Key, numpy_generator

LEVEL_LIMIT = 0.9
"""Largest magnitude of a sample; a recording that would exceed it is made quieter as a whole."""

_HOP = 160
_FRAME = 2 * _HOP
_SPECTRUM = 4 * _HOP  # a frame and 20 ms of ringing, after which a 60 Hz wide resonance has lost 33 dB
_NASAL_HZ = 280.0
_CAVITY_WIDTH = 0.3  # of the resonance that goes with the antiresonance and confines it to its surroundings
_HIGHER_FORMANTS_HZ = (3400.0, 4400.0, 5400.0, 6400.0)
_BANDWIDTHS_HZ = np.array([70.0, 90.0, 130.0, 200.0, 250.0, 350.0, 450.0])


@dataclass(frozen=True, eq=False)
class _Score:
    """The sounds of one utterance in order."""

    phones: tuple[Phone, ...]
    vowels: np.ndarray  # [S] index into VOWELS, -1 for other sounds
    ends: np.ndarray  # [S] seconds


def synthesise(voice: Voice, session: Session, seconds: float, *keys: Key) -> np.ndarray:
    """One utterance of ``voice``, float32 ``[seconds * 16000]``, magnitudes at most ``LEVEL_LIMIT``.

    ``keys`` fix the words, their melody and the noise; see `mrl.randomness`.
    """
    generator = numpy_generator(*keys)
    num_samples = round(seconds * SAMPLE_RATE)
    score = _compose(voice, session, num_samples / SAMPLE_RATE, generator)
    speech = _speak(voice, session, score, num_samples, generator)
    heard = oaconvolve(speech, session.response)[:num_samples]
    heard /= np.sqrt(np.mean(heard**2))
    noise = _coloured_noise(num_samples, session.noise_exponent, generator)
    recording = heard + noise * 10.0 ** (-session.snr_db / 20.0)
    recording *= 10.0 ** (session.level_db / 20.0) / np.sqrt(np.mean(recording**2))
    return (recording * min(1.0, LEVEL_LIMIT / np.abs(recording).max())).astype(np.float32)


def _compose(voice: Voice, session: Session, seconds: float, generator: np.random.Generator) -> _Score:
    """Words and pauses until the time is up."""
    names, lengths = ["silence"], [generator.uniform(0.05, 0.25)]
    pace = voice.seconds_scale * session.seconds_scale
    lexicon = words()
    while sum(lengths) < seconds:
        word = lexicon[generator.integers(len(lexicon))]
        spread = np.exp(0.15 * generator.standard_normal(len(word)))
        lengths += [PHONES[name].seconds * pace * factor for name, factor in zip(word, spread, strict=True)]
        names += word
        if generator.random() < 0.35:
            names.append("silence")
            lengths.append(generator.uniform(0.05, 0.3) * pace)
    vowels = [VOWELS.index(name) if name in VOWELS else -1 for name in names]
    return _Score(tuple(PHONES[name] for name in names), np.array(vowels), np.cumsum(lengths))


def _speak(
    voice: Voice, session: Session, score: _Score, num_samples: int, generator: np.random.Generator
) -> np.ndarray:
    """The sound at the lips, ``[T]``."""
    num_frames = _num_frames(num_samples)
    at_frames = np.minimum(
        np.searchsorted(score.ends, np.arange(num_frames) * _HOP / SAMPLE_RATE, side="right"),
        len(score.phones) - 1,
    )
    voicing, frication, aspiration = _levels(score, num_samples)
    pulses, opening = _glottal_source(voice, session, voicing, num_frames, generator)
    breath = aspiration + voice.breath * voicing * opening
    glottal = pulses + breath * generator.standard_normal(num_samples, dtype=np.float32)
    friction = voice.frication * frication * generator.standard_normal(num_samples, dtype=np.float32)
    spectra = _frame_spectra(glottal, num_frames) * _tract(voice, score, at_frames)
    spectra += _frame_spectra(friction, num_frames) * _mouth(voice, score, at_frames)
    return _overlap_add(spectra)[:num_samples]


def _levels(score: _Score, num_samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Amplitudes of voicing, frication and aspiration, float32 ``[T]`` each, changing within some 10 ms."""
    levels = np.array([(phone.voicing, phone.frication, phone.aspiration) for phone in score.phones])
    fine = 40
    seconds = np.arange(num_samples // fine + 2) * fine / SAMPLE_RATE
    sound = np.minimum(np.searchsorted(score.ends, seconds, side="right"), len(score.phones) - 1)
    smooth = gaussian_filter1d(levels[sound], 2.0, axis=0, mode="nearest")
    at = np.arange(num_samples) / fine
    voicing, frication, aspiration = (
        np.interp(at, np.arange(len(smooth)), column).astype(np.float32) for column in smooth.T
    )
    return voicing, frication, aspiration


def _glottal_source(
    voice: Voice, session: Session, voicing: np.ndarray, num_frames: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The flow through the glottis with a mean square of 1, and how far it is open, 0 to 1; ``[T]`` each."""
    num_samples = len(voicing)
    melody = gaussian_filter1d(generator.standard_normal(num_frames + 40), 9.0)[20:-20]
    melody *= voice.pitch_range_semitones / melody.std()
    semitones = melody - voice.declination_semitones * np.linspace(-0.5, 0.5, num_frames)
    pitch_hz = voice.pitch_hz * 2.0 ** ((semitones + session.pitch_semitones) / 12.0)
    samples = np.arange(num_samples)
    period = SAMPLE_RATE / np.interp(samples, np.arange(num_frames) * _HOP, pitch_hz)
    cycles = np.cumsum(1.0 / period)

    counts = np.arange(1, int(cycles[-1]))
    second = counts % 2
    moved = voice.jitter * generator.standard_normal(len(counts)) + 0.1 * voice.alternation * second
    instants = np.interp(counts + moved, cycles, samples)
    heights = 1.0 + voice.shimmer * generator.standard_normal(len(counts)) - voice.alternation * second
    nearest = np.clip(instants.astype(np.int64), 0, num_samples - 1)
    pulses = _pulse_train(instants, heights * voicing[nearest], num_samples)

    tilt_hz = voice.tilt_hz * 2.0**session.effort_octaves
    glottal_hz = min(voice.glottal_formant * voice.pitch_hz, 600.0)
    flow = lfilter(*_glottal_filter(glottal_hz, tilt_hz), pulses)
    flow /= np.sqrt(np.mean(flow**2)) + 1e-9
    opening = 0.5 - 0.5 * np.cos((2.0 * np.pi * (cycles % 1.0)).astype(np.float32))
    return flow, opening


def _pulse_train(instants: np.ndarray, heights: np.ndarray, num_samples: int) -> np.ndarray:
    """Pulses at ``instants`` ``[P]`` (samples, with fractions) as windowed sinc functions, ``[T]``."""
    taps = np.arange(-7, 9)
    whole = np.floor(instants).astype(np.int64)
    distance = taps - (instants - whole)[:, None]
    shape = np.sinc(distance) * np.cos(np.pi * distance / 18.0) ** 2
    places = np.clip(whole[:, None] + taps, 0, num_samples - 1)
    return np.bincount(places.ravel(), (heights[:, None] * shape).ravel(), minlength=num_samples)


def _glottal_filter(glottal_hz: float, tilt_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator: the derivative of the glottal flow rises to ``glottal_hz``, then falls by
    6 dB per octave, and by 12 above ``tilt_hz`` (Fant, "The LF-model revisited", 1995).
    """
    radius = np.exp(-np.pi * glottal_hz / SAMPLE_RATE)
    resonance = [1.0, -2.0 * radius * np.cos(2.0 * np.pi * glottal_hz / SAMPLE_RATE), radius**2]
    return np.array([1.0, -1.0]), np.convolve(resonance, [1.0, -np.exp(-2.0 * np.pi * tilt_hz / SAMPLE_RATE)])


def _tract(voice: Voice, score: _Score, at_frames: np.ndarray) -> np.ndarray:
    """Response of the vocal tract at each frame, complex64 ``[N, F]``."""
    sigma = voice.glide_seconds * SAMPLE_RATE / _HOP
    formants = gaussian_filter1d(_formant_targets(voice, score)[at_frames], sigma, axis=0, mode="nearest")
    poles = np.ones((len(formants), 1))
    for number in range(formants.shape[1]):
        bandwidth = np.full(len(formants), _BANDWIDTHS_HZ[number] * voice.bandwidth_scales[number])
        poles = _times(poles, _second_order(np.minimum(formants[:, number], 7800.0), bandwidth))

    nose = gaussian_filter1d(_nasal_zeros(voice, score)[at_frames], 1.5, mode="nearest")
    width = np.full(len(nose), 120.0)
    nasal_pole = _second_order(np.full(len(nose), _NASAL_HZ * voice.nasal_scale), width)
    cavity = np.full(len(nose), voice.cavity_hz)
    zeros = _times(_second_order(nose, width), _second_order(cavity, cavity * voice.cavity_width))
    poles = _times(_times(poles, nasal_pole), _second_order(cavity, cavity * _CAVITY_WIDTH))
    return _response(zeros).astype(np.complex64) / _response(poles).astype(np.complex64)


def _formant_targets(voice: Voice, score: _Score) -> np.ndarray:
    """``[S, K]`` Hz: what this speaker aims at in each sound."""
    lower = np.array([phone.formants_hz for phone in score.phones])
    targets = np.concatenate([lower, np.tile(_HIGHER_FORMANTS_HZ, (len(lower), 1))], axis=1)
    is_vowel = score.vowels >= 0
    neutral = np.array(PHONES["schwa"].formants_hz)
    vowels = neutral * (lower[is_vowel] / neutral) ** voice.vowel_spread
    vowels[:, :2] *= np.exp(np.einsum("a,avf->vf", voice.accent, accent_directions()))[score.vowels[is_vowel]]
    targets[is_vowel, :3] = vowels
    return targets * voice.tract_scale * voice.formant_scales


def _nasal_zeros(voice: Voice, score: _Score) -> np.ndarray:
    """``[S]`` Hz: the antiresonance of the nose, upon its own resonance (and so unheard) where it is shut."""
    open_hz = np.array([phone.nasal_zero_hz for phone in score.phones])
    shut_hz = np.where(score.vowels >= 0, _NASAL_HZ * (1.0 + voice.nasality), _NASAL_HZ)
    return np.where(open_hz > 0.0, open_hz, shut_hz) * voice.nasal_scale


def _mouth(voice: Voice, score: _Score, at_frames: np.ndarray) -> np.ndarray:
    """Response of the mouth in front of a constriction at each frame, complex ``[N, F]``, 1 at its peak."""
    centre = np.array([phone.frication_hz for phone in score.phones]) * voice.frication_scale
    width = np.array([phone.frication_bandwidth_hz for phone in score.phones])
    response = 1.0 / _response(_second_order(np.minimum(centre, 7800.0), width))
    response /= np.abs(response).max(axis=1, keepdims=True)
    return response.astype(np.complex64)[at_frames]


def _second_order(hertz: np.ndarray, bandwidth_hz: np.ndarray) -> np.ndarray:
    """Polynomials ``[N, 3]`` in 1/z of a resonance (or its inverse), scaled to 1 at 0 Hz (Klatt, 1980)."""
    radius = np.exp(-np.pi * bandwidth_hz / SAMPLE_RATE)
    middle = -2.0 * radius * np.cos(2.0 * np.pi * hertz / SAMPLE_RATE)
    polynomial = np.stack([np.ones_like(radius), middle, radius**2], axis=1)
    return polynomial / polynomial.sum(axis=1, keepdims=True)


def _times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row, the product of polynomials ``[N, I]`` and ``[N, J]``: ``[N, I + J - 1]``."""
    product = np.zeros((len(left), left.shape[1] + right.shape[1] - 1))
    for power in range(right.shape[1]):
        product[:, power : power + left.shape[1]] += left * right[:, power : power + 1]
    return product


def _response(polynomials: np.ndarray) -> np.ndarray:
    """Polynomials in 1/z ``[N, I]`` along the upper half of the unit circle, ``[N, F]``.

    In double precision: the terms of a product of nine resonances all but cancel near 0 Hz.
    """
    return rfft(polynomials, _SPECTRUM, axis=1)


def _num_frames(num_samples: int) -> int:
    """So many that two overlap at every sample; frame i begins i - 1 hops into the signal."""
    return -(-num_samples // _HOP) + 1


def _frame_spectra(signal: np.ndarray, num_frames: int) -> np.ndarray:
    """Spectra ``[N, F]`` of overlapping frames whose windows add up to 1."""
    padded = np.zeros((num_frames + 1) * _HOP, dtype=np.float32)
    padded[_HOP : _HOP + len(signal)] = signal
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * (np.arange(_FRAME) + 0.5) / _FRAME)
    return rfft(frames * window.astype(np.float32), _SPECTRUM, axis=1)


def _overlap_add(spectra: np.ndarray) -> np.ndarray:
    """The signal whose filtered frames have ``spectra`` ``[N, F]``, from its first sample on."""
    pieces = irfft(spectra, _SPECTRUM, axis=1).reshape(len(spectra), -1, _HOP)
    signal = np.zeros((len(spectra) + pieces.shape[1], _HOP), dtype=np.float32)
    for place in range(pieces.shape[1]):
        signal[place : place + len(spectra)] += pieces[:, place]
    return signal.ravel()[_HOP:]


def _coloured_noise(num_samples: int, exponent: float, generator: np.random.Generator) -> np.ndarray:
    """Noise with a power spectrum of 1 / f^exponent, nothing below 20 Hz, and a mean square of 1, ``[T]``."""
    size = next_fast_len(num_samples, real=True)
    spectrum = rfft(generator.standard_normal(size, dtype=np.float32))
    hertz = rfftfreq(size, 1.0 / SAMPLE_RATE)
    shape = np.where(hertz >= 20.0, np.maximum(hertz, 20.0) ** (-exponent / 2.0), 0.0)
    noise = irfft(spectrum * shape.astype(np.float32), size)[:num_samples]
    return noise / np.sqrt(np.mean(noise**2))
