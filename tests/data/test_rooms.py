from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.data.clips import ClipBank
from mrl.data.noise import power, white_noise
from mrl.data.rooms import RecordedRooms, from_direct_sound, reverberate, synthetic_responses
from mrl.errors import DataError

CPU = torch.device("cpu")


def test_a_two_tap_response_by_hand() -> None:
    speech = torch.tensor([[1.0, 2.0, 0.0, -1.0]])
    heard = reverberate(speech, torch.tensor([[1.0, 0.0, 0.5]]))
    # [1, 2, 0.5, 0] has power 5.25 / 4; the speech has 6 / 4.
    expected = torch.tensor([[1.0, 2.0, 0.5, 0.0]]) * (6.0 / 5.25) ** 0.5
    torch.testing.assert_close(heard, expected)


def test_reverberate_equals_direct_convolution_and_keeps_the_power() -> None:
    speech, responses = white_noise([1, 2], 500, CPU), white_noise([3, 4], 77, CPU)
    heard = reverberate(speech * 0.1, responses)
    torch.testing.assert_close(power(heard), power(speech * 0.1))
    for row in range(2):
        plain = np.convolve(speech[row].numpy(), responses[row].numpy())[:500]
        scale = float(heard[row, 100]) / plain[100]
        np.testing.assert_allclose(heard[row].numpy(), plain * scale, atol=1e-4)


def test_reverberate_leaves_silence_silent() -> None:
    assert not reverberate(torch.zeros(1, 50), torch.ones(1, 3)).any()


def test_from_direct_sound_starts_at_the_peak_with_unit_energy() -> None:
    response = from_direct_sound(np.array([0.0, 0.1, -4.0, 3.0, 1.0], dtype=np.float32), 2)
    np.testing.assert_allclose(response, [-0.8, 0.6], rtol=1e-6)
    padded = from_direct_sound(np.array([0.0, 0.0, 2.0], dtype=np.float32), 3)
    np.testing.assert_allclose(padded, [1.0, 0.0, 0.0])
    assert padded.dtype == np.float32


def measured_decay_seconds(tail: np.ndarray, sample_rate: int) -> float:
    """RT60 from the slope between -5 and -25 dB of the backward-integrated energy (Schroeder, 1965)."""
    energy = np.cumsum(tail[::-1].astype(np.float64) ** 2)[::-1]
    level_db = 10.0 * np.log10(energy / energy[0])
    fitted = (level_db <= -5.0) & (level_db >= -25.0)
    slope = np.polyfit(np.flatnonzero(fitted) / sample_rate, level_db[fitted], 1)[0]
    return -60.0 / slope


def test_synthetic_responses_decay_as_asked() -> None:
    decay_seconds = torch.tensor([0.2, 0.5, 0.8])
    direct_db = torch.tensor([0.0, 6.0, 12.0])
    white = white_noise([1, 2, 3], 16000, CPU)
    responses = synthetic_responses(white, decay_seconds, direct_db, sample_rate=16000).double().numpy()
    for response, decay, ratio in zip(responses, decay_seconds.tolist(), direct_db.tolist(), strict=True):
        assert measured_decay_seconds(response[1:], 16000) == pytest.approx(decay, rel=0.05)
        measured_ratio = 10.0 * np.log10(response[0] ** 2 / np.sum(response[1:] ** 2))
        assert measured_ratio == pytest.approx(ratio, abs=1e-3)
        assert np.sum(response**2) == pytest.approx(1.0, abs=1e-5)
        assert np.argmax(np.abs(response)) == 0


def test_recorded_rooms_are_cut_to_one_second_and_held(tmp_path: Path) -> None:
    recording = np.zeros(20000, dtype=np.float32)
    recording[[100, 200, 19000]] = [0.8, 0.4, 0.2]
    soundfile.write(tmp_path / "hall.wav", recording, 16000, subtype="FLOAT")
    rooms = RecordedRooms(ClipBank.from_folder(tmp_path, "room_responses"), 16000)
    response = rooms[0]
    assert len(rooms) == 1
    assert response.shape == (16000,)
    assert np.flatnonzero(np.abs(response) > 1e-6).tolist() == [0, 100]
    (tmp_path / "hall.wav").unlink()
    assert rooms[0] is response


def test_a_silent_response_is_an_error_that_names_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mute.wav", np.zeros(100), 16000)
    rooms = RecordedRooms(ClipBank.from_folder(tmp_path, "room_responses"), 16000)
    with pytest.raises(DataError, match=r"data\.room_responses.*mute\.wav: silent"):
        rooms[0]
