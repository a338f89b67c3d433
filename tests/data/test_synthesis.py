"""The invented speakers: their filters are what they say, their recordings sane, their channel a confound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter, welch

from mrl.data import synthesis
from mrl.data.phones import NUM_WORDS, PHONES, VOWELS, words
from mrl.data.synthesis import LEVEL_LIMIT, synthesise
from mrl.data.voices import NUM_ROOMS, Session, recording_session, speaker_voice

RATE = 16_000
STUDIO = Session(
    response=np.ones(1, dtype=np.float32),
    snr_db=80.0,
    noise_exponent=1.0,
    level_db=-26.0,
    pitch_semitones=0.0,
    effort_octaves=0.0,
    seconds_scale=1.0,
)


def long_term_spectrum(waveform: np.ndarray) -> np.ndarray:
    """Decibels in 200 Hz steps."""
    _, power = welch(waveform, RATE, nperseg=1024)
    return 10.0 * np.log10(power[1:513].reshape(-1, 16).mean(axis=1))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    speaker=st.integers(0, 9999),
    session=st.integers(0, 30),
    seconds=st.floats(0.5, 5.0),
)
def test_every_recording_is_finite_audible_and_unclipped(
    seed: int, speaker: int, session: int, seconds: float
) -> None:
    sitting = recording_session(seed, speaker, session)
    recording = synthesise(speaker_voice(seed, speaker), sitting, seconds, seed, "test")
    assert recording.dtype == np.float32
    assert recording.shape == (round(seconds * RATE),)
    assert np.isfinite(recording).all()
    assert np.abs(recording).max() <= LEVEL_LIMIT + 1e-6
    level_db = 10.0 * np.log10(np.mean(recording.astype(np.float64) ** 2))
    assert -45.0 < level_db <= sitting.level_db + 0.01


def test_level_is_that_of_the_session_and_yields_where_it_would_clip() -> None:
    voice = speaker_voice(1, 0)
    quiet = synthesise(voice, STUDIO, 3.0, "level")
    assert 10.0 * np.log10(np.mean(quiet**2)) == pytest.approx(-26.0, abs=0.01)
    loud = synthesise(voice, replace(STUDIO, level_db=0.0), 3.0, "level")
    assert np.abs(loud).max() == pytest.approx(LEVEL_LIMIT, rel=1e-5)


def test_keys_decide_what_is_said() -> None:
    voice, session = speaker_voice(1, 3), recording_session(1, 3, 0)
    first = synthesise(voice, session, 1.0, 1, "utterance", 0)
    np.testing.assert_array_equal(first, synthesise(voice, session, 1.0, 1, "utterance", 0))
    assert np.abs(np.corrcoef(first, synthesise(voice, session, 1.0, 1, "utterance", 1))[0, 1]) < 0.5


def test_voices_and_sessions_are_functions_of_their_keys() -> None:
    assert speaker_voice(1, 5).pitch_hz == speaker_voice(1, 5).pitch_hz
    pitches = {speaker_voice(seed, speaker).pitch_hz for seed in (1, 2) for speaker in range(10)}
    assert len(pitches) == 20
    np.testing.assert_array_equal(recording_session(1, 5, 2).response, recording_session(1, 5, 2).response)


def test_rooms_are_shared_between_speakers_and_differ_between_sittings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mrl.data.voices._with_microphone", lambda response, draw: response)

    def rooms(speaker: int) -> list[bytes]:
        return [recording_session(1, speaker, session).response.tobytes() for session in range(NUM_ROOMS)]

    assert len(set(rooms(0))) == NUM_ROOMS
    assert set(rooms(0)) == set(rooms(1))
    assert rooms(0) != rooms(1)


def test_channel_moves_the_average_spectrum_more_than_content_does() -> None:
    within, across = [], []
    for speaker in range(6):
        voice = speaker_voice(1, speaker)
        first, second = (recording_session(1, speaker, session) for session in range(2))
        one, other = (long_term_spectrum(synthesise(voice, first, 4.0, speaker, key)) for key in range(2))
        away = long_term_spectrum(synthesise(voice, second, 4.0, speaker, 2))
        within.append(np.std(one - other))
        across.append(np.std(one - away))
    assert np.mean(across) > 1.5 * np.mean(within)


@pytest.mark.parametrize("speaker", range(6))
def test_pitch_is_that_of_the_voice(speaker: int) -> None:
    steady = {"pitch_range_semitones": 0.01, "declination_semitones": 0.0, "alternation": 0.0, "jitter": 0.0}
    voice = replace(speaker_voice(1, speaker), **steady)
    recording = synthesise(voice, STUDIO, 4.0, "pitch").astype(np.float64)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(recording, 2 * len(recording))) ** 2)
    lags = np.arange(RATE // 250, RATE // 80)
    assert RATE / lags[np.argmax(correlation[lags])] == pytest.approx(voice.pitch_hz, rel=0.02)


@pytest.mark.parametrize("hertz", [300.0, 1500.0, 5400.0])
def test_resonance_peaks_at_its_frequency_and_passes_0_hz(hertz: float) -> None:
    response = (
        1.0 / np.abs(synthesis._response(synthesis._second_order(np.array([hertz]), np.array([60.0]))))[0]
    )
    step_hz = RATE / 2 / (len(response) - 1)
    assert response[0] == pytest.approx(1.0)
    assert np.argmax(response) * step_hz == pytest.approx(hertz, abs=step_hz)


def test_products_of_polynomials_match_convolution() -> None:
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(5, 7)), draw.normal(size=(5, 3))
    expected = [np.convolve(a, b) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(synthesis._times(left, right), expected, rtol=1e-12)


def test_frames_filtered_alike_are_the_signal_filtered() -> None:
    signal = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    num_frames = synthesis._num_frames(len(signal))
    pole = synthesis._second_order(np.array([900.0]), np.array([150.0]))
    spectra = synthesis._frame_spectra(signal, num_frames) / synthesis._response(pole)
    expected = lfilter([1.0], pole[0], signal)
    np.testing.assert_allclose(synthesis._overlap_add(spectra)[: len(signal)], expected, atol=2e-3)


@pytest.mark.parametrize("num_samples", [4000, 4001, 4159])
def test_unfiltered_frames_add_up_to_the_signal(num_samples: int) -> None:
    signal = np.random.default_rng(0).normal(size=num_samples).astype(np.float32)
    spectra = synthesis._frame_spectra(signal, synthesis._num_frames(num_samples))
    np.testing.assert_allclose(synthesis._overlap_add(spectra)[:num_samples], signal, atol=1e-5)


def test_pulses_fall_where_they_are_put() -> None:
    whole = synthesis._pulse_train(np.array([50.0, 100.0]), np.array([1.0, 0.5]), 200)
    expected = np.zeros(200)
    expected[[50, 100]] = 1.0, 0.5
    np.testing.assert_allclose(whole, expected, atol=1e-12)
    half = synthesis._pulse_train(np.array([60.5]), np.array([1.0]), 200)
    assert half[60] == pytest.approx(half[61])
    assert half[60] > np.delete(half, [60, 61]).max()


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_falls_with_frequency_as_asked(exponent: float) -> None:
    noise = synthesis._coloured_noise(160_000, exponent, np.random.default_rng(0))
    assert np.mean(noise**2) == pytest.approx(1.0, rel=1e-5)
    hertz, power = welch(noise, RATE, nperseg=4096)
    band = (hertz > 100.0) & (hertz < 7000.0)
    slope = np.polyfit(np.log(hertz[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_words_are_made_of_known_phones_and_all_vowels_occur() -> None:
    assert len(words()) == NUM_WORDS
    spoken = {phone for word in words() for phone in word}
    assert spoken <= set(PHONES)
    assert set(VOWELS) <= spoken
    assert all(set(word) & set(VOWELS) for word in words())


def test_every_trait_of_a_voice_is_heard() -> None:
    voice = speaker_voice(1, 0)
    reference = synthesise(voice, STUDIO, 2.0, "trait")
    for name in voice.__dataclass_fields__:
        other = getattr(voice, name)
        changed = replace(voice, **{name: 1.2 * other + 0.01})
        assert np.abs(synthesise(changed, STUDIO, 2.0, "trait") - reference).max() > 1e-4, name
