"""Folders of audio that training mixes in: noise, music and speech clips, and room impulse responses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mrl.audio import AUDIO_SUFFIXES, Samples, SilentPartError, read, read_crop, require_sound
from mrl.config import DataConfig
from mrl.errors import AudioError, DataError

Kind = Literal["noise", "music", "babble", "room_responses"]

_TRIES = 10  # clips, one after the other, before the folder counts as unusable


class ClipBank:
    """The audio files below one folder, read on demand.

    Only the list of files is held: MUSAN is 11 GB and the simulated room responses of OpenSLR 28 are 60,000
    files. The order is that of the names, so that a clip's index means the same on every machine.
    """

    def __init__(self, folder: Path, kind: Kind, paths: Sequence[Path]) -> None:
        self.folder = folder
        self.kind = kind
        self.paths = tuple(paths)
        self._unreadable: dict[int, str] = {}
        self._told: set[int] = set()

    @classmethod
    def from_folder(cls, folder: Path, kind: Kind) -> ClipBank:
        """Every audio file below ``folder``; ``kind`` is its key in the ``data`` section of the config.

        Raises:
            DataError: the folder is missing, cannot be listed, or holds no audio file.
        """
        if not folder.is_dir():
            raise DataError(f"data.{kind}: {folder} is not a folder; mend the path or remove the key")
        try:
            paths = sorted(_audio_below(folder))
        except OSError as error:
            raise DataError(f"data.{kind}: {error.filename} cannot be listed: {error.strerror}") from error
        if not paths:
            known = ", ".join(sorted(AUDIO_SUFFIXES))
            raise DataError(
                f"data.{kind}: no audio file ({known}) below {folder}; mend the path or remove the key"
            )
        return cls(folder, kind, paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Samples:
        """The whole of clip ``index``: float32 ``[T]``, 16 kHz.

        One that cannot be read, or is silent, is replaced by the next that can; see `newly_unreadable`.

        Raises:
            DataError: none of ten can be read.
        """
        return self._first_readable(index, lambda path: read(path))

    def crop(self, index: int, num_samples: int, position: float) -> Samples:
        """``num_samples`` of clip ``index``: float32 ``[num_samples]``; a shorter clip is repeated.

        ``position`` in [0, 1) picks the start among all that fit. A crop from a silent stretch of a clip that
        is not all silence is zeros. A clip that cannot be read is replaced as by `read`.

        Raises:
            DataError: none of ten can be read.
        """
        return self._first_readable(index, lambda path: _crop(path, num_samples, position))

    def newly_unreadable(self) -> list[str]:
        """Why clips were replaced since this was asked last, a message ``<path>: <reason>`` for each, once."""
        new = self._unreadable.keys() - self._told
        self._told |= new
        return [self._unreadable[index] for index in sorted(new)]

    def _first_readable(self, index: int, reading: Callable[[Path], Samples]) -> Samples:
        """What ``reading`` makes of clip ``index``, or of the first after it that can be read."""
        tried = [(index + step) % len(self) for step in range(min(_TRIES, len(self)))]
        for place in tried:
            try:
                return reading(self.paths[place])
            except AudioError as error:
                self._unreadable.setdefault(place, str(error))
        more = f", nor can the {len(tried) - 1} after it" if len(tried) > 1 else ""
        raise DataError(
            f"data.{self.kind} ({self.folder}): {self._unreadable[index]}{more}; mend or remove these files"
        )


class ClipBanks(NamedTuple):
    """The banks of a run; None where no folder is configured."""

    noise: ClipBank | None = None
    music: ClipBank | None = None
    babble: ClipBank | None = None
    rooms: ClipBank | None = None

    def newly_unreadable(self) -> list[str]:
        """:meth:`ClipBank.newly_unreadable` of all of them."""
        return [message for bank in self if bank is not None for message in bank.newly_unreadable()]

    @classmethod
    def of(cls, data: DataConfig) -> ClipBanks:
        """Those that ``data`` names. Raises DataError for a folder that is missing or holds no audio file."""

        def bank(folder: Path | None, kind: Kind) -> ClipBank | None:
            return None if folder is None else ClipBank.from_folder(folder, kind)

        return cls(
            noise=bank(data.noise, "noise"),
            music=bank(data.music, "music"),
            babble=bank(data.babble, "babble"),
            rooms=bank(data.room_responses, "room_responses"),
        )


def _crop(path: Path, num_samples: int, position: float) -> Samples:
    try:
        return read_crop(path, num_samples, position)
    except SilentPartError:
        require_sound(path)  # raises where all of the clip is silent
        return np.zeros(num_samples, dtype=np.float32)


def _audio_below(folder: Path) -> Iterator[Path]:
    """What is called audio, broken links and pipes included: reading them names them. OSError for a closed folder."""

    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith("."):
                yield Path(parent, name)
