"""Checkpoint files of any origin, read as data: nothing in them is run."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from mrl.errors import CheckpointError


def read_tensor_file(path: str | Path) -> Any:
    """What ``torch.save`` wrote to ``path``, on the CPU: tensors, numbers, strings and containers of them.

    Raises CheckpointError for a file that is missing, unreadable, damaged, or that holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if start.startswith(b"<"):
        raise CheckpointError(f"{path}: a web page, not a checkpoint: the download failed; fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a Git LFS pointer, not a checkpoint; fetch it with `git lfs pull`")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message recommends weights_only=False, which would run whatever code the file holds.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it holds {foreign[1]}, and code is never run here" if foreign else "damaged, or another format"
        )
        raise CheckpointError(f"{path}: not a checkpoint of plain tensors and options: {reason}") from error
    except Exception as error:  # bytes that are no pickle make the unpickler raise errors of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint, perhaps cut short: {reason}") from error
