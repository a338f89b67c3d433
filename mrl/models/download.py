"""Released checkpoints on this machine: found by path or by name, downloaded once, checked at each use.

A file's size and SHA-256 are compared with those that are known, and with those recorded beside it at its first
download, so that a file that changed, here or on the server, is noticed. Nothing of a file is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from mrl.atomic import write_text_atomically
from mrl.console import Console
from mrl.errors import CheckpointError
from mrl.line_file import reason
from mrl.models.registry import REGISTRY, ReleasedCheckpoint, lookup
from mrl.models.transfer import discard, note_of, transfer

_MOST_RECORD_BYTES = 10_000


@dataclass(frozen=True)
class Record:
    """What was downloaded, kept beside the file as ``<file>.json``."""

    size: int  # bytes
    sha256: str
    url: str
    date: str  # of the first download, UTC


def resolve(pretrained: str, reporter: Console) -> Path:
    """The file that ``pretrained`` means: a path, or the name of a released checkpoint, fetched where needed.

    Raises CheckpointError: no such file, no such name, or a download that failed.
    """
    if not pretrained or not pretrained.isprintable():
        raise CheckpointError(
            f"{pretrained!r:.100}: give the path of a checkpoint or the name of a released one"
        )
    try:
        path = Path(pretrained).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name too long for the system, a home that is unknown
        reasons = getattr(error, "strerror", None) or reason(error)
        raise CheckpointError(f"{pretrained:.100}: cannot be read: {reasons}") from error
    if pretrained in REGISTRY:
        return fetch(REGISTRY[pretrained], reporter=reporter)
    if path.suffix in (".pt", ".pth", ".ckpt") or len(path.parts) > 1 or path.exists():
        problem = "a folder, not a checkpoint" if path.is_dir() else "no such file"
        raise CheckpointError(f"{pretrained}: {problem}; give the path or the name of a released checkpoint")
    return fetch(lookup(pretrained), reporter=reporter)


def checkpoint_folder() -> Path:
    """Where released checkpoints are kept: ``$MRL_HOME``, or a folder in the cache of torch.hub."""
    home = os.environ.get("MRL_HOME")
    return Path(home).expanduser() if home else Path(torch.hub.get_dir()) / "checkpoints" / "redimnet-mrl"


def fetch(
    checkpoint: ReleasedCheckpoint,
    *,
    reporter: Console,
    directory: Path | None = None,
    base_url: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The file of ``checkpoint``, downloaded unless it is there already. Processes that ask at once share one download.

    Args:
        directory: where it is kept; `checkpoint_folder()` by default.
        base_url: an address that serves the file instead of the release's.
        sleep: waits that many seconds between attempts.

    Raises:
        CheckpointError: it cannot be downloaded or stored, or it is not the file that is known or recorded.
    """
    directory = checkpoint_folder() if directory is None else directory
    # Two repositories use the same file names; the name of the checkpoint is unique.
    path = directory / f"{checkpoint.name}.pt"
    url = checkpoint.url if base_url is None else f"{base_url}/{checkpoint.url.rpartition('/')[2]}"
    try:
        if not path.is_file():
            directory.mkdir(parents=True, exist_ok=True)
            with _alone(directory / f".{path.name}.lock", path, reporter):
                if not path.is_file():
                    _download(checkpoint, path, url, reporter, sleep)
                    return path
        _check_local(checkpoint, path, url)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or directory}: {error.strerror or reason(error)}; set MRL_HOME to a folder that "
            "can be written to"
        ) from error
    return path


def _download(
    checkpoint: ReleasedCheckpoint, path: Path, url: str, reporter: Console, sleep: Callable[[float], None]
) -> None:
    record = _read_record(path)
    part = path.with_name(f"{path.name}.part")
    expectations = _expectations(checkpoint, record, path)

    def expect(size: int) -> None:
        for expectation in expectations:
            expectation.require(url, size)

    transfer(url, part, description=checkpoint.name, reporter=reporter, expect=expect, sleep=sleep)
    found = _measured(part, url)
    try:
        for expectation in expectations:
            expectation.require(url, found.size, found.sha256)
    except CheckpointError:
        discard(part)
        raise
    _flush(part)
    if record is None:
        _write_record(path, found)
    part.replace(path)
    note_of(part).unlink(missing_ok=True)
    reporter.say(f"{checkpoint.name}: {found.size / 1e6:.1f} MB in {path}, SHA-256 {found.sha256}")


@dataclass(frozen=True)
class _Expectation:
    """What a downloaded file must be, as far as it is known, and what to say where it is not."""

    size: int | None
    sha256: str | None
    complaint: str

    def require(self, url: str, size: int, sha256: str | None = None) -> None:
        if self.size not in (None, size):
            raise CheckpointError(f"{url}: {size} bytes, not {self.size}: {self.complaint}")
        if sha256 is not None and self.sha256 not in (None, sha256):
            raise CheckpointError(f"{url}: SHA-256 {sha256}, not {self.sha256}: {self.complaint}")


def _expectations(checkpoint: ReleasedCheckpoint, record: Record | None, path: Path) -> list[_Expectation]:
    known = _Expectation(
        checkpoint.size_bytes,
        checkpoint.sha256,
        "it was damaged on its way, or the release was replaced. Try again; if it stays so, download it by "
        "hand, make sure that it is genuine, and give its path as the name",
    )
    if record is None:
        return [known]
    changed = (
        f"the file on the server has changed since it was first downloaded on {record.date}; to accept the "
        f"new one delete {_record_path(path)}"
    )
    return [known, _Expectation(record.size, record.sha256, changed)]


def _check_local(checkpoint: ReleasedCheckpoint, path: Path, url: str) -> None:
    """Compare the file on the disk with its record and with what is known of it."""
    found, record = _measured(path, url), _read_record(path)
    mended = f"delete it to download it again, or give its path as the name to use it as it is: {path}"
    if record is not None and (found.size, found.sha256) != (record.size, record.sha256):
        raise CheckpointError(
            f"{path}: changed since it was downloaded on {record.date} ({found.size} bytes, then {record.size}); "
            f"{mended}"
        )
    if checkpoint.sha256 not in (None, found.sha256) or checkpoint.size_bytes not in (None, found.size):
        raise CheckpointError(f"{path}: not the released file (SHA-256 {found.sha256}); {mended}")
    if record is None:
        with suppress(OSError):  # a folder that many share may be read-only, and the file is good
            _write_record(path, found)


def _measured(path: Path, url: str) -> Record:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Record(path.stat().st_size, digest, url, f"{datetime.now(UTC):%Y-%m-%d}")


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_record(path: Path) -> Record | None:
    record = _record_path(path)
    try:
        with record.open("rb") as file:
            values = json.loads(file.read(_MOST_RECORD_BYTES))
        found = Record(**values)
        if type(found.size) is not int or {type(text) for text in (found.sha256, found.url, found.date)} != {
            str
        }:
            raise TypeError("values of another kind")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{record}: not a record of a download; delete it to make a new one: {reason(error)}"
        ) from error


def _write_record(path: Path, record: Record) -> None:
    write_text_atomically(_record_path(path), json.dumps(asdict(record), indent=2) + "\n")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _alone(lock: Path, path: Path, reporter: Console) -> Iterator[None]:
    """Hold ``lock``, so that the processes of one run do not all write ``path``; freed when the process ends."""
    if sys.platform == "win32":  # has no flock; there one process runs
        yield
        return
    import fcntl

    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.say(f"{path.name}: waiting for another process that downloads it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
