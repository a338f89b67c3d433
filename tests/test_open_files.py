"""The limit of open files is told from other failures."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.audio import SAMPLE_RATE, read, read_crop
from mrl.errors import AudioError, DataError
from mrl.open_files import is_at_limit, require_room
from tests.file_limit import room_for


def test_what_comes_of_the_limit_is_known_by_number_or_text():
    assert is_at_limit(OSError(errno.EMFILE, "x"))
    assert is_at_limit(RuntimeError(f"unable to open shared memory object: {os.strerror(errno.EMFILE)} (24)"))
    assert is_at_limit(
        RuntimeError("Too many open files. Communication with the workers is no longer possible.")
    )
    assert not is_at_limit(OSError(errno.ENOSPC, "x"))
    assert not is_at_limit(RuntimeError("unable to allocate shared memory(shm)"))


def test_room_is_looked_for_and_given_back():
    with room_for(6):
        for _ in range(3):
            require_room(3)
        with pytest.raises(OSError, match="Too many open files") as caught:
            require_room(1000)
        assert caught.value.errno == errno.EMFILE
        require_room(3)


@pytest.mark.parametrize("how", [read, lambda path: read_crop(path, 4000, 0.5)], ids=["whole", "crop"])
def test_a_good_file_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path, how) -> None:
    """It would be replaced by another, which cannot be opened either, and counted as unreadable."""
    path = tmp_path / "good.wav"
    soundfile.write(path, np.full(8000, 0.1, dtype=np.float32), SAMPLE_RATE)
    how(path)
    with (
        room_for(0),
        pytest.raises(DataError, match=r"good\.wav: .*; raise the limit of open files") as caught,
    ):
        how(path)
    assert not isinstance(caught.value, AudioError)
    assert "damaged" not in str(caught.value)
