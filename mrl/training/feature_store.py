"""Rows of features in one file on disk, written block by block by any number of processes, read at random.

    rows.bin          one record a row: pooled statistics and the teacher's embedding in float16, then its target
    blocks.<n>.txt    "<block> <CRC-32>" for each block that process n has written, after its bytes were flushed
    replaced.<n>.txt  a message for each utterance that could not be read, and was replaced
    key.json          what the rows depend on

A block that a crash cut off is in no list, and one whose bytes changed does not match its checksum: both count as
missing, and are computed again. P pooled statistics, E teacher's embedding, B rows that are read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.atomic import write_text_atomically
from mrl.errors import DataError
from mrl.line_file import reason
from mrl.loss import Targets

BLOCK_ROWS = 2048
"""Rows that are computed again, at most, for each process after an interruption."""


class Layout(NamedTuple):
    """Sizes of a store. ``reference_dim`` is 0 without a teacher."""

    num_utterances: int
    views: int
    pooled_dim: int
    reference_dim: int

    @property
    def num_rows(self) -> int:
        return self.views * self.num_utterances

    @property
    def record_bytes(self) -> int:
        return 2 * (self.pooled_dim + self.reference_dim) + 3 * 4

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.record_bytes

    @property
    def blocks(self) -> list[range]:
        """The rows of each block; no block holds rows of two views."""
        return [
            range(start, min(start + BLOCK_ROWS, (view + 1) * self.num_utterances))
            for view in range(self.views)
            for start in range(view * self.num_utterances, (view + 1) * self.num_utterances, BLOCK_ROWS)
        ]


class Features(NamedTuple):
    """Rows, decoded; on the device of their bytes."""

    pooled: Tensor  # float32 [B, P]
    reference: Tensor | None  # float32 [B, E]
    targets: Targets


class FeatureStore:
    """The store in ``folder``, which is made where it is not there.

    Args:
        layout: its sizes; a file of another size counts as empty.
        process: number of this process, for the files that it alone writes.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(self, folder: Path, layout: Layout, process: int = 0) -> None:
        self.folder = folder
        self.layout = layout
        self._process = process
        self._rows = folder / "rows.bin"
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """Make the file, or empty it where its size is wrong. By one process, before any writes."""
        with _writing(self.folder):
            if self.is_prepared():
                return
            for path in self.folder.glob("*.txt"):
                path.unlink()
            with self._rows.open("wb") as file:
                file.truncate(self.layout.num_bytes)

    def is_prepared(self) -> bool:
        """Whether the file is there, and as long as it must be."""
        return self._rows.exists() and self._rows.stat().st_size == self.layout.num_bytes

    def missing(self, blocks: Iterable[int]) -> list[int]:
        """Those of ``blocks`` that are not there, or not as they were written: their bytes are read."""
        written = self._checksums()
        layout = self.layout.blocks
        return [block for block in blocks if self._checksum(layout[block]) not in written.get(block, ())]

    def write(self, block: int, records: NDArray[np.uint8], replaced: Iterable[str]) -> None:
        """Write the ``records`` [rows, record_bytes] of a block, with the messages of its replaced utterances."""
        rows = self.layout.blocks[block]
        assert records.shape == (len(rows), self.layout.record_bytes)
        content = records.tobytes()
        with _writing(self.folder):
            descriptor = os.open(self._rows, os.O_WRONLY)
            try:
                _write_all(descriptor, content, rows.start * self.layout.record_bytes)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            # A list that lacks its last line after a crash only means that the block is computed again.
            self._append("replaced", replaced)
            self._append("blocks", [f"{block} {zlib.crc32(content)}"])

    def replaced(self) -> list[str]:
        """The messages of all utterances that were replaced."""
        return sorted({line for path in self.folder.glob("replaced.*.txt") for line in _lines(path)})

    def describe(self, text: str) -> None:
        """Keep beside the rows what they depend on."""
        with _writing(self.folder):
            write_text_atomically(self.folder / "key.json", text)

    def open(self) -> NDArray[np.uint8]:
        """All records [rows, record_bytes], memory-mapped."""
        shape = (self.layout.num_rows, self.layout.record_bytes)
        return np.memmap(self._rows, dtype=np.uint8, mode="r", shape=shape)

    def _checksum(self, rows: range) -> int:
        offset, size = rows.start * self.layout.record_bytes, len(rows) * self.layout.record_bytes
        with self._rows.open("rb") as file:
            file.seek(offset)
            return zlib.crc32(file.read(size))

    def _checksums(self) -> dict[int, set[int]]:
        """Each block's, of every time that it was written."""
        found: dict[int, set[int]] = {}
        for path in sorted(self.folder.glob("blocks.*.txt")):
            for line in _lines(path):
                block, _, checksum = line.partition(" ")
                if block.isdecimal() and checksum.isdecimal():
                    found.setdefault(int(block), set()).add(int(checksum))
        return found

    def _append(self, kind: str, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if text:
            with (self.folder / f"{kind}.{self._process}.txt").open("a", encoding="utf-8") as file:
                file.write(f"\n{text}")  # begins a line of its own where a crash has cut the last one off


def encode(pooled: Tensor, reference: Tensor | None, targets: Targets, layout: Layout) -> NDArray[np.uint8]:
    """Records [B, record_bytes] of a batch. The caller has made sure that float16 holds the numbers."""
    features = pooled if reference is None else torch.cat([pooled, reference], dim=1)
    halves = features.half().cpu().numpy()
    speakers = targets.speakers.cpu().numpy().astype(np.int32)
    partners = speakers if targets.partners is None else targets.partners.cpu().numpy().astype(np.int32)
    shares = np.ones(len(speakers), np.float32) if targets.shares is None else targets.shares.cpu().numpy()
    columns = [halves, speakers[:, None], partners[:, None], shares.astype(np.float32)[:, None]]
    records = np.concatenate([np.ascontiguousarray(column).view(np.uint8) for column in columns], axis=1)
    assert records.shape[1] == layout.record_bytes
    return records


def decode(records: Tensor, layout: Layout, *, mixed: bool) -> Features:
    """What uint8 ``records`` [B, record_bytes] hold; ``mixed`` says whether items may have partners."""
    sizes = [2 * layout.pooled_dim, 2 * layout.reference_dim, 4, 4, 4]
    pooled, reference, speakers, partners, shares = (
        part.contiguous() for part in records.split(sizes, dim=1)
    )
    targets = Targets(speakers.view(torch.int32)[:, 0].long())
    if mixed:
        targets = Targets(
            targets.speakers, partners.view(torch.int32)[:, 0].long(), shares.view(torch.float32)[:, 0]
        )
    teacher = reference.view(torch.float16).float() if layout.reference_dim else None
    return Features(pooled.view(torch.float16).float(), teacher, targets)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: the feature cache cannot be written ({reason(error)}); make room, set data.cache to another "
            "folder, or cache_views to 0"
        ) from error


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    """All of ``content``: one call writes 2 GiB at most, and less where a signal comes."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _lines(path: Path) -> list[str]:
    """Whole lines; a last one that a crash cut off is left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.split("\n")[:-1] if line]
