"""Zip archives as torch and NumPy write them: every record stored, none compressed. Verified before use.

PyTorch reads checkpoints without a look at their checksums, so that a flipped bit would be loaded as a weight; and a
compressed record may unpack to a thousand times its size. Format: .ZIP File Format Specification (APPNOTE 6.3), 4.3.
"""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20
_MOST_DIRECTORY_BYTES = 8 << 20
_END, _END_SIZE, _MOST_COMMENT = b"PK\x05\x06", 22, 0xFFFF
_WIDE_END, _WIDE_END_SIZE, _WIDE_LOCATOR_SIZE = b"PK\x06\x06", 56, 20


def require_sound(source: Path | BinaryIO) -> int:
    """Verify the archive at ``source`` and return its size in bytes.

    Each record is read once: 200 MB of tensors take 0.07 s on one core, where torch.load takes 0.04 s of the same file
    in the page cache.

    Raises ValueError for a file that is no archive or cut short, a record that is compressed or encrypted, a
    checksum that is wrong, and a directory of more than 8 MiB; OSError where it cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return require_sound(file)
    size = source.seek(0, os.SEEK_END)
    _require_small_directory(source, size)
    try:
        with zipfile.ZipFile(source) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError("a record is compressed, which torch.save and numpy.savez never do")
            if sum(record.file_size for record in records) > size:
                raise ValueError("its records claim more bytes than the file has")
            for record in records:
                with archive.open(record) as content:
                    while content.read(_CHUNK):
                        pass
    # RuntimeError: encrypted. UnicodeDecodeError is a ValueError; struct.error comes of a cut field.
    except (zipfile.BadZipFile, RuntimeError, EOFError, struct.error, OverflowError) as error:
        raise ValueError(f"damaged: {error}"[:200]) from error
    return size


def _require_small_directory(file: BinaryIO, size: int) -> None:
    """Refuse what would be unpacked into millions of objects before a record is seen."""
    file.seek(max(0, size - _END_SIZE - _MOST_COMMENT - _WIDE_END_SIZE - _WIDE_LOCATOR_SIZE))
    tail = file.read()
    place = tail.rfind(_END)
    if place < 0 or len(tail) < place + _END_SIZE:
        raise ValueError("it is no archive of torch.save or NumPy")
    directory = struct.unpack_from("<L", tail, place + 12)[0]
    wide = place - _WIDE_LOCATOR_SIZE - _WIDE_END_SIZE
    if wide >= 0 and tail.startswith(_WIDE_END, wide):
        directory = struct.unpack_from("<Q", tail, wide + 40)[0]
    if directory > _MOST_DIRECTORY_BYTES:
        raise ValueError(f"its directory claims {directory} bytes")


def load_arrays(source: Path | BinaryIO) -> dict[str, NDArray[Any]]:
    """The arrays that ``numpy.savez`` wrote to ``source``, by name; nothing in them is run.

    Raises ValueError for a file that is damaged or no such archive, OSError where it cannot be read.
    """
    size = require_sound(source)
    if not isinstance(source, Path):
        source.seek(0)
    try:
        with np.load(source, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except OSError:
        raise
    except Exception as error:  # a header that is no header makes its parser raise errors of any kind
        raise ValueError(f"damaged: {error}"[:200]) from error
    if any(not isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a record is no array")
    if sum(array.nbytes for array in arrays.values()) > size:
        raise ValueError("its arrays claim more bytes than the file has")
    return arrays
