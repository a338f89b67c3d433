"""Checkpoint files of any origin, read as data: nothing in them is run."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from mrl.errors import CheckpointError
from mrl.line_file import printable, reason
from mrl.models.tensor_claims import MOST_PICKLE_BYTES, require_harmless_pickle, require_honest
from mrl.stored_zip import require_sound

_PICKLE = b"\x80"


def read_tensor_file(path: str | Path) -> Any:
    """What ``torch.save`` wrote to ``path``, on the CPU: tensors, numbers, strings and containers of them.

    Read is the format of PyTorch 1.6 and later. The checksum of every record is verified first, which PyTorch does
    not do; and what the file claims to hold is compared with its size.

    Raises CheckpointError for a file that is missing, unreadable, damaged, or that holds anything else.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise CheckpointError(f"{printable(path)}: a folder; name a file in it")
        if not path.is_file():
            raise CheckpointError(f"{printable(path)}: no such file")
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read: {error.strerror or error}") from error
    if start.startswith(b"<"):
        raise CheckpointError(
            f"{printable(path)}: a web page, not a checkpoint: the download failed; fetch it again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{printable(path)}: a Git LFS pointer, not a checkpoint; fetch it with `git lfs pull`"
        )
    if start.startswith(_PICKLE):
        raise CheckpointError(
            f"{printable(path)}: not a checkpoint of plain tensors and options: a bare pickle, not the archive that "
            "torch.save writes since version 1.6"
        )
    try:
        size = _require_sound(path)
        content = _unpickled(path)
        require_honest(content, size)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{printable(path)}: not a readable checkpoint, perhaps cut short: {_shown(error)}"
        ) from error
    return content


def _require_sound(path: Path) -> int:
    """The size of the archive at ``path``, whose records are whole and whose pickle is one to unpickle."""
    size = require_sound(path)
    with zipfile.ZipFile(path) as archive:
        pickles = [record for record in archive.infolist() if record.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} parts of it are called data.pkl, one must be")
        with archive.open(pickles[0]) as content:
            require_harmless_pickle(content.read(MOST_PICKLE_BYTES + 1))
    return size


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a damaged file seems to be, before it is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message recommends weights_only=False, which would run whatever code the file holds.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        why = (
            f"it holds {printable(foreign[1][:100])}, and code is never run here"
            if foreign
            else "damaged, or another format"
        )
        raise CheckpointError(
            f"{printable(path)}: not a checkpoint of plain tensors and options: {why}"
        ) from error
    except Exception as error:  # bytes that are no pickle make the unpickler raise errors of any kind
        raise ValueError(_shown(error)) from error


def _shown(error: Exception) -> str:
    """The first line of ``error``, short and printable."""
    return printable(reason(error)[:200])
