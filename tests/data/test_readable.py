"""Audio of the validation lists is opened before the run begins, and all that is wrong is said at once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.data.readable import check_audio_readable
from mrl.data.trials import Trial, TrialList
from mrl.errors import DataError
from mrl.models.released import ReleasedModel


def listed(root: Path, count: int) -> TrialList:
    for item in range(count):
        soundfile.write(root / f"{item}.wav", np.full(160, 0.1, dtype=np.float32), 16_000)
    return TrialList.from_trials(
        "x", root, [Trial(item == 0, "0.wav", f"{item}.wav") for item in range(count)]
    )


def test_good_files_pass_and_bad_ones_are_counted_with_their_reasons(tmp_path: Path) -> None:
    trials = listed(tmp_path, 9)
    check_audio_readable([trials, trials])
    whole = (tmp_path / "1.wav").read_bytes()
    (tmp_path / "1.wav").write_bytes(whole[:-100])
    (tmp_path / "2.wav").write_bytes(b"")
    (tmp_path / "3.wav").write_bytes(b"no audio at all")
    with pytest.raises(DataError) as caught:
        check_audio_readable([trials, trials])
    message = str(caught.value)
    assert "3 of 9 audio files" in message
    for expected in ("1.wav: cut short", "2.wav: empty", "3.wav: damaged"):
        assert expected in message
    assert "more" not in message


def test_silence_and_nan_are_found_in_few_files_and_cut_ends_in_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = listed(tmp_path, 4)
    soundfile.write(tmp_path / "1.wav", np.zeros(160, dtype=np.float32), 16_000)
    late = np.full(61 * 16_000, 0.1, dtype=np.float32)
    late[-1] = np.nan
    soundfile.write(tmp_path / "2.wav", late, 16_000, subtype="FLOAT")
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 40_000)
    soundfile.write(tmp_path / "3.wav", noise, 16_000, format="FLAC")
    os.truncate(tmp_path / "3.wav", 20_000)
    with pytest.raises(DataError, match="3 of 4") as caught:
        check_audio_readable([trials])
    for expected in ("1.wav: silent", "2.wav: it holds NaN", "3.wav: damaged or cut short"):
        assert expected in str(caught.value)
    monkeypatch.setattr("mrl.data.readable._READ_AT_MOST", 3)
    with pytest.raises(DataError, match=r"1 of 4[^;]*; [^:]*:\s*\S*3\.wav: "):
        check_audio_readable([trials])


def test_no_more_than_five_are_named(tmp_path: Path) -> None:
    trials = listed(tmp_path, 9)
    for item in range(1, 8):
        (tmp_path / f"{item}.wav").write_bytes(b"")
    with pytest.raises(DataError, match="7 of 9") as caught:
        check_audio_readable([trials])
    assert str(caught.value).count(": empty") == 5
    assert "and 2 more" in str(caught.value)


def test_what_is_too_short_for_the_model_is_counted_with_the_rest(
    tmp_path: Path, released: ReleasedModel
) -> None:
    trials = listed(tmp_path, 4)
    least = released.min_samples
    for name, rate, count in (("0", 16_000, least), ("1", 16_000, least - 1), ("2", 48_000, 3 * least - 3)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(count, 0.1, dtype=np.float32), rate)
    (tmp_path / "3.wav").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 4") as caught:
        check_audio_readable([trials], released.require_samples)
    short = f"a waveform of {least - 1} samples is too short"
    for expected in (f"1.wav: {short}", f"2.wav: {short}", "3.wav: empty"):
        assert expected in str(caught.value)
    long_enough = TrialList.from_trials("x", tmp_path, [Trial(True, "0.wav", "0.wav")])
    check_audio_readable([long_enough], released.require_samples)


def test_mp3_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"")
    check_audio_readable([TrialList.from_trials("x", tmp_path, [Trial(True, "a.mp3", "a.mp3")])])
