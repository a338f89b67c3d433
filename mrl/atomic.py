"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary file beside ``path``, flush it to the disk, and rename it to ``path``.

    Whoever reads ``path`` sees the old content or the new, never a part. Processes that write the same file
    at the same time do not disturb each other. On an error the temporary file is removed, ``path`` stays as
    it was, and the error (an OSError, say) is raised again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all; see `write_atomically`."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def link_file(source: Path, target: Path) -> None:
    """``target`` as another name of ``source``; files are only ever replaced whole, so a hard link is safe."""
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another of its names would leave both

    def link(temporary: Path) -> None:
        try:
            os.link(source.resolve(), temporary)  # not the symbolic link that it may be
        except OSError:
            shutil.copyfile(source, temporary)

    write_atomically(target, link)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the platform lets a folder be flushed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
