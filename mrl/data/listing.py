"""The audio files below a folder of speakers, found by several threads, held as arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.audio import AUDIO_SUFFIXES
from mrl.errors import DataError

LAYOUT = "a corpus is <root>/<speaker>/**/<file>, one folder for each speaker"
SCAN_THREADS = 16  # they wait for a network file system; a local one is no slower for it

Folders = list[tuple[str, int]]
"""Folders below a root ("" is the root itself), each with the time of its last change in nanoseconds."""


class Listing(NamedTuple):
    """What :class:`mrl.data.corpus.Corpus` holds, the root aside."""

    speakers: tuple[str, ...]
    speaker_ids: NDArray[np.int32]
    path_bytes: NDArray[np.uint8]
    path_offsets: NDArray[np.int64]
    ignored_files: int


class _Speaker(NamedTuple):
    """What lies below one speaker's folder."""

    path_bytes: bytes
    path_lengths: list[int]
    folders: Folders


def list_tree(root: Path, progress: Callable[[int], None] | None) -> tuple[Listing, Folders]:
    """The audio files of each speaker folder in ``root``, and every folder that was looked into.

    Raises DataError where a folder cannot be listed, or there is no speaker folder or no audio.
    """
    status = _stat(str(root))
    names, outside = _entries(str(root))
    if not names:
        found = f"{len(outside)} audio files directly in it, no folders" if outside else "no folders in it"
        raise DataError(f"{root}: {found}; {LAYOUT}")
    walk = partial(_walk, str(root), (status.st_dev, status.st_ino))
    folders: Folders = [("", status.st_mtime_ns)]
    speakers, counts, lengths, blobs = [], [], [], []
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        for name, speaker in zip(names, pool.map(walk, names), strict=True):
            folders += speaker.folders
            if not speaker.path_lengths:
                continue
            speakers.append(name)
            counts.append(len(speaker.path_lengths))
            lengths.append(np.array(speaker.path_lengths, dtype=np.int64))
            blobs.append(speaker.path_bytes)
            if progress is not None:
                progress(counts[-1])
    if not speakers:
        known = ", ".join(sorted(AUDIO_SUFFIXES))
        raise DataError(f"{root}: no audio ({known}) in its {len(names)} folders; {LAYOUT}")
    listing = Listing(
        tuple(speakers),
        np.repeat(np.arange(len(speakers), dtype=np.int32), counts),
        np.frombuffer(b"".join(blobs), dtype=np.uint8),
        offsets_of(np.concatenate(lengths)),
        len(outside),
    )
    return listing, folders


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of consecutive pieces begins, and where the last one ends: ``[N] -> [N + 1]``."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _walk(root: str, root_identity: tuple[int, int], speaker: str) -> _Speaker:
    """The audio files below ``root/speaker``, sorted. A link back up the tree leads nowhere."""
    entered = {root_identity}
    folders: Folders = []
    files: list[str] = []
    pending = [speaker]
    while pending:
        folder = pending.pop()
        status = _stat(f"{root}/{folder}")  # before listing it: a change meanwhile makes a later time
        identity = (status.st_dev, status.st_ino)
        if identity in entered:
            continue
        entered.add(identity)
        folders.append((folder, status.st_mtime_ns))
        subfolders, names = _entries(f"{root}/{folder}")
        files += [f"{folder}/{name}" for name in names]
        pending += [f"{folder}/{name}" for name in reversed(subfolders)]
    encoded = [os.fsencode(file) for file in sorted(files)]
    return _Speaker(b"".join(encoded), [len(path) for path in encoded], folders)


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the audio files in ``folder``, each sorted."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                # A broken link or a pipe counts as a file: reading it will name it, where leaving it out would hide it.
                elif _is_audio(entry.name):
                    files.append(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: this folder cannot be listed: {error.strerror}") from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that leads back to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():
            return False
        raise


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _stat(folder: str) -> os.stat_result:
    try:
        return os.stat(folder)
    except OSError as error:
        raise DataError(f"{folder}: this folder cannot be listed: {error.strerror}") from error
