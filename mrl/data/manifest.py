"""The list of a corpus's files, kept on disk for as long as the folders of the corpus stay as they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mrl.atomic import write_atomically
from mrl.audio import AUDIO_SUFFIXES
from mrl.data.listing import SCAN_THREADS, Folders, Listing
from mrl.errors import DataError
from mrl.packed import require_listing
from mrl.stored_zip import load_arrays

_FORMAT = f"1 {' '.join(sorted(AUDIO_SUFFIXES))}"  # a list made for other suffixes is another list
_SETTLED_NS = 2_000_000_000  # the coarsest step in which file systems count times
_STATS_AT_ONCE = 1024
_SEPARATOR = "\0"  # the one character that no file name holds


def manifest_path(manifest_dir: Path, root: Path) -> Path:
    """Where the manifest of the corpus at ``root`` lies."""
    resolved = root.resolve()
    key = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]
    return manifest_dir / f"{resolved.name}-{key}.npz"


def load_manifest(path: Path, root: Path) -> Listing | None:
    """The list kept at ``path``; None if there is none, it is damaged, or a folder below ``root`` changed."""
    if not path.exists():
        return None
    try:
        content = load_arrays(path)
        if str(content["format"]) != _FORMAT:
            return None
        folders, times = _split(content["folders"]), content["folder_times"]
        listing = Listing(
            tuple(_split(content["speakers"])),
            content["speaker_ids"],
            content["path_bytes"],
            content["path_offsets"],
            int(content["ignored_files"]),
        )
        require_listing(*listing)
    except Exception:  # whatever is wrong with it, scanning again mends it
        return None
    return listing if _times_of(root, folders) == times.tolist() else None


def save_manifest(path: Path, listing: Listing, folders: Folders, started_ns: int) -> None:
    """Keep ``listing`` at ``path``.

    It is not kept where a folder changed just before ``started_ns``, the time at which the scan began:
    another change since then could have left the folder's time as it was. Raises DataError where it cannot be
    written.
    """
    times = np.array([time for _, time in folders], dtype=np.int64)
    if times.max() > started_ns - _SETTLED_NS:
        return

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                speakers=_joined(listing.speakers),
                speaker_ids=listing.speaker_ids,
                path_bytes=listing.path_bytes,
                path_offsets=listing.path_offsets,
                ignored_files=np.array(listing.ignored_files),
                folders=_joined([folder for folder, _ in folders]),
                folder_times=times,
            )

    try:
        write_atomically(path, write)
    except OSError as error:
        raise DataError(
            f"{path}: the manifest of a scanned corpus cannot be written ({error.strerror}); "
            "set data.cache to a folder that can"
        ) from error


def _times_of(root: Path, folders: Sequence[str]) -> list[int]:
    """When each folder last changed, in nanoseconds; -1 for one that is gone."""

    def of(some: Sequence[str]) -> list[int]:
        return [_time_of(os.path.join(root, folder)) for folder in some]

    groups = [folders[i : i + _STATS_AT_ONCE] for i in range(0, len(folders), _STATS_AT_ONCE)]
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        return [time for group in pool.map(of, groups) for time in group]


def _time_of(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _joined(names: Sequence[str]) -> np.ndarray:
    return np.frombuffer(os.fsencode(_SEPARATOR.join(names)), dtype=np.uint8)


def _split(joined: np.ndarray) -> list[str]:
    return os.fsdecode(joined.tobytes()).split(_SEPARATOR)
