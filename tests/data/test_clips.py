from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.data.clips import ClipBank, ClipBanks
from mrl.errors import DataError


def write_ramp(path: Path, num_samples: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.arange(num_samples) / 32768, 16000, subtype="PCM_16")


def test_a_bank_holds_the_audio_files_below_its_folder_by_name(tmp_path: Path) -> None:
    for name in ("b/two.WAV", "a/one.flac", "c.wav", "a/.hidden.wav"):
        write_ramp(tmp_path / name, 10)
    (tmp_path / "a" / "README.txt").write_text("not audio")
    bank = ClipBank.from_folder(tmp_path, "noise")
    assert [path.relative_to(tmp_path).as_posix() for path in bank.paths] == [
        "a/one.flac",
        "b/two.WAV",
        "c.wav",
    ]
    assert len(bank) == 3


def test_crops_lie_within_the_clip_and_short_clips_wrap(tmp_path: Path) -> None:
    write_ramp(tmp_path / "clip.wav", 100)
    bank = ClipBank.from_folder(tmp_path, "noise")
    assert np.array_equal(bank.read(0) * 32768, np.arange(100))
    assert np.array_equal(bank.crop(0, 40, 0.0) * 32768, np.arange(40))
    late = bank.crop(0, 40, 0.999)
    assert late.dtype == np.float32
    assert late.shape == (40,)
    assert np.array_equal(np.diff(late * 32768), np.ones(39))
    longer = bank.crop(0, 250, 0.3) * 32768
    assert np.array_equal(longer[100:200], longer[:100])
    assert set(longer.tolist()) == set(range(100))


def test_a_silent_stretch_is_zeros_but_a_silent_clip_is_replaced(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.eye(1, 100)[0] * 0.5, 16000)
    soundfile.write(tmp_path / "b.wav", np.zeros(100), 16000)
    bank = ClipBank.from_folder(tmp_path, "noise")
    assert bank.crop(0, 20, 0.0).tolist() == [0.5, *[0.0] * 19]
    assert bank.crop(0, 20, 0.5).tolist() == [0.0] * 20
    assert bank.newly_unreadable() == []
    assert bank.crop(1, 20, 0.0).tolist() == [0.5, *[0.0] * 19]  # the next after the last is the first
    assert bank.newly_unreadable() == [f"{tmp_path / 'b.wav'}: silent: every sample is zero"]


def test_a_bad_clip_is_replaced_by_the_next_and_named_once(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "d.wav"):
        write_ramp(tmp_path / name, 100)
    (tmp_path / "c.wav").symlink_to(tmp_path / "nowhere.wav")
    bank = ClipBank.from_folder(tmp_path, "music")
    assert len(bank) == 4
    (tmp_path / "b.wav").unlink()
    soundfile.write(tmp_path / "d.wav", np.full(100, 0.25), 16000)
    for _ in range(2):
        assert bank.crop(1, 20, 0.0).tolist() == [0.25] * 20
        assert bank.read(2).tolist() == [0.25] * 100
    banks = ClipBanks(music=bank)
    assert banks.newly_unreadable() == [
        f"{tmp_path / 'b.wav'}: no such file",
        f"{tmp_path / 'c.wav'}: a link that leads nowhere",
    ]
    assert banks.newly_unreadable() == []


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ramp(tmp_path / "open" / "a.wav", 10)
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"data\.noise: \S*/closed cannot be listed: Permission denied$"):
        ClipBank.from_folder(tmp_path, "noise")


def test_links_between_folders_are_not_followed(tmp_path: Path) -> None:
    write_ramp(tmp_path / "in" / "a.wav", 10)
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert ClipBank.from_folder(tmp_path, "noise").paths == (tmp_path / "in" / "a.wav",)


def test_ten_bad_clips_in_a_row_are_an_error(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}.wav").touch()
    write_ramp(tmp_path / "10.wav", 100)
    bank = ClipBank.from_folder(tmp_path, "noise")
    assert len(bank.read(1)) == 100
    with pytest.raises(DataError, match=r"data\.noise.*00\.wav: empty \(0 bytes\), nor can the 9 after it"):
        bank.read(0)


def test_a_missing_folder_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.noise: .*nowhere is not a folder"):
        ClipBank.from_folder(tmp_path / "nowhere", "noise")


def test_a_folder_without_audio_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(DataError, match=r"data\.room_responses: no audio file"):
        ClipBank.from_folder(tmp_path, "room_responses")


def test_a_damaged_clip_is_an_error_that_names_the_key_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF but no more")
    bank = ClipBank.from_folder(tmp_path, "noise")
    with pytest.raises(DataError, match=r"data\.noise.*broken\.wav"):
        bank.read(0)
    with pytest.raises(DataError, match=r"data\.noise.*broken\.wav"):
        bank.crop(0, 10, 0.5)
