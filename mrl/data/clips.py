"""Folders of audio that training mixes in: noise, music and speech clips, and room impulse responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mrl.audio import AUDIO_SUFFIXES, Samples, read, read_crop
from mrl.config import DataConfig
from mrl.errors import AudioError, DataError

Kind = Literal["noise", "music", "babble", "room_responses"]


class ClipBank:
    """The audio files below one folder, read on demand.

    Only the list of files is held: MUSAN is 11 GB and the simulated room responses of OpenSLR 28 are 60,000
    files. The order is that of the names, so that a clip's index means the same on every machine.
    """

    def __init__(self, folder: Path, kind: Kind, paths: Sequence[Path]) -> None:
        self.folder = folder
        self.kind = kind
        self.paths = tuple(paths)

    @classmethod
    def from_folder(cls, folder: Path, kind: Kind) -> ClipBank:
        """Every audio file below ``folder``; ``kind`` is its key in the ``data`` section of the config.

        Raises:
            DataError: the folder is missing or holds no audio file.
        """
        if not folder.is_dir():
            raise DataError(f"data.{kind}: {folder} is not a folder; mend the path or remove the key")
        paths = sorted(path for path in folder.rglob("*") if _is_audio(path))
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

        Raises:
            DataError: it cannot be read, or is silent.
        """
        try:
            return read(self.paths[index])
        except AudioError as error:
            raise DataError(f"data.{self.kind} ({self.folder}): {error}; mend or remove this file") from error

    def crop(self, index: int, num_samples: int, position: float) -> Samples:
        """``num_samples`` of clip ``index``: float32 ``[num_samples]``; a shorter clip is repeated.

        ``position`` in [0, 1) picks the start among all that fit. A crop from a silent stretch of a clip that
        is not all silence is zeros.

        Raises:
            DataError: the clip cannot be read, or is silent throughout.
        """
        try:
            return read_crop(self.paths[index], num_samples, position)
        except AudioError:
            self.read(index)  # raises, unless the crop failed for its silence alone
            return np.zeros(num_samples, dtype=np.float32)


class ClipBanks(NamedTuple):
    """The banks of a run; None where no folder is configured."""

    noise: ClipBank | None = None
    music: ClipBank | None = None
    babble: ClipBank | None = None
    rooms: ClipBank | None = None

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


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
