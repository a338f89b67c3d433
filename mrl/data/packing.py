"""Writing a packed corpus: its utterances decoded once, in order, into shards. See :mod:`mrl.packed`.

Samples are kept as 16-bit integers at 16 kHz. Files of 16 bits at 16 kHz (WAV, FLAC) lose nothing; others are
rounded to 16 bits, which moves a sample by 2^-16 at most (by 2^-15 at positive full scale). Packing may be
interrupted at any time, by ``kill -9`` too: what is finished is kept, and checked, when it goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mrl.atomic import write_atomically
from mrl.audio import SAMPLE_RATE, read
from mrl.data.corpus import Corpus, scan
from mrl.data.disk_need import in_words, require_room
from mrl.errors import AudioError, DataError
from mrl.packed import TABLE, UNREADABLE, is_packed, open_table, save_table
from mrl.read_ahead import map_ahead
from mrl.shards import (
    FULL_SCALE,
    PackedSamples,
    ShardTable,
    Unreadable,
    bytes_of,
    damaged_utterances,
    finished_shard,
    shard_path,
    table_path,
    write_shard,
)

_ABANDONED_SECONDS = 60.0  # a temporary file that has not grown for so long is what a killed process left


class Bar(Protocol):
    def advance(self, n: int = 1) -> None: ...


class Reporter(Protocol):
    """Where packing says what it does; :class:`mrl.console.Console` is one."""

    def say(self, text: str) -> None: ...

    def progress(self, description: str, total: int, initial: int = 0) -> AbstractContextManager[Bar]: ...


@dataclass(frozen=True)
class PackOptions:
    """How to pack."""

    shard_bytes: int = 1 << 30
    """Size of a shard, the last utterance aside, which is kept whole."""
    workers: int = 4
    """Threads that decode."""
    max_unreadable_share: float = 0.01
    """Of the utterances; more than these, and packing stops."""


def pack_corpus(source: Path, folder: Path, options: PackOptions, reporter: Reporter) -> Corpus:
    """Pack the corpus at ``source`` into ``folder``, or go on where an earlier call was stopped; gives the source.

    Utterances that cannot be read keep their place, without samples, and are named in ``unreadable.txt``.

    Raises DataError where ``source`` is no corpus or is packed already, ``folder`` holds the packing of another
    corpus, lies in ``source`` or around it, or cannot be written, the disk has too little room, or too many
    utterances cannot be read.
    """
    _require_apart(source, folder)
    reporter.say(f"scanning {source}")
    corpus = scan(source, manifest_dir=None)
    if corpus.packs:
        raise DataError(f"{source}: this corpus is packed already; data.train reads it as it is")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_own_folder(folder)
        _remove_abandoned(folder)
        _Job(corpus, folder, options, reporter).run()
    except OSError as error:
        raise DataError(
            f"{folder}: the packed corpus cannot be written ({error.strerror or error}); mend that and run the "
            "same command again, finished shards are kept"
        ) from error
    return corpus


class _Job:
    """One call of :func:`pack_corpus`, once what it works on is known."""

    def __init__(self, corpus: Corpus, folder: Path, options: PackOptions, reporter: Reporter) -> None:
        self._corpus = corpus
        self._folder = folder
        self._fingerprint = corpus.fingerprint()
        self._options = options
        self._reporter = reporter
        self._unreadable: list[str] = []

    def run(self) -> None:
        self._require_same_corpus()
        try:
            tables = self._kept()
            done = tables[-1].stop if tables else 0
            if done < len(self._corpus):
                self._reporter.say(require_room(self._corpus, done, self._folder, self._options.workers))
                (self._folder / TABLE).unlink(missing_ok=True)  # until every shard is there
                tables = self._packed(tables)
        finally:
            self._name_unreadable()
        if not is_packed(self._folder):
            self._save_table(tables)
        self._say_what_there_is(tables)

    def _require_same_corpus(self) -> None:
        first = finished_shard(self._folder, 0)
        found = {self._fingerprint_of_table(), None if first is None else first.fingerprint}
        if found - {None, self._fingerprint}:
            raise DataError(
                f"{self._folder}: it holds the packing of another corpus, or {self._corpus.root} has other files "
                "since; remove it or name another folder"
            )

    def _fingerprint_of_table(self) -> str | None:
        """Of the corpus that was packed; None where there is no table, or a damaged one, which goes."""
        try:
            return open_table(self._folder).fingerprint if is_packed(self._folder) else None
        except DataError:
            (self._folder / TABLE).unlink(missing_ok=True)
            return None

    def _kept(self) -> list[ShardTable]:
        """Tables of the finished shards up to the first that is missing, their samples compared with them."""
        tables: list[ShardTable] = []
        while (table := self._finished(len(tables), tables[-1].stop if tables else 0)) is not None:
            tables.append(table)
        # All of them, and the table over them: packing was over, and --verify is there to read it again.
        if tables and not (is_packed(self._folder) and tables[-1].stop == len(self._corpus)):
            with self._reporter.progress("checking finished shards", len(tables)) as bar:
                for number, table in enumerate(tables):
                    if not self._is_sound(number, table):
                        tables = tables[:number]
                        break
                    bar.advance()
        for table in tables:
            self._count_unreadable(table.unreadable)
        return tables

    def _finished(self, number: int, first: int) -> ShardTable | None:
        table = finished_shard(self._folder, number)
        fits = table is not None and table.fingerprint == self._fingerprint and table.first == first
        return table if fits else None

    def _is_sound(self, number: int, table: ShardTable) -> bool:
        path = shard_path(self._folder, number)
        sound = not damaged_utterances(path, table.num_samples, table.checksums)
        if not sound:
            self._reporter.say(f"{path}: damaged since it was written; it is written anew")
        return sound

    def _packed(self, tables: list[ShardTable]) -> list[ShardTable]:
        """``tables`` and those of the shards after them, which are written unless they are there."""
        total = len(self._corpus)
        tables = list(tables)
        first = tables[-1].stop if tables else 0
        with self._reporter.progress(f"packing into {self._folder}", total, first) as bar:
            while first < total:
                number = len(tables)
                table = self._finished(number, first)
                if table is not None and self._is_sound(number, table):
                    self._count_unreadable(table.unreadable)
                    bar.advance(len(table.num_samples))
                else:
                    table = self._written(number, first, bar)
                tables.append(table)
                first = table.stop
        return tables

    def _written(self, number: int, first: int, bar: Bar) -> ShardTable:
        paths = (self._corpus.path(utterance) for utterance in range(first, len(self._corpus)))
        with closing(self._counted(map_ahead(sixteen_bits, paths, self._options.workers), bar)) as utterances:
            return write_shard(
                self._folder,
                number,
                utterances,
                fingerprint=self._fingerprint,
                first=first,
                max_bytes=self._options.shard_bytes,
            )

    def _counted(
        self, utterances: Iterator[PackedSamples | Unreadable], bar: Bar
    ) -> Generator[PackedSamples | Unreadable, None, None]:
        for utterance in utterances:
            if isinstance(utterance, Unreadable):
                self._count_unreadable([utterance.reason])
            bar.advance()
            yield utterance

    def _count_unreadable(self, reasons: Sequence[str]) -> None:
        self._unreadable += reasons
        if len(self._unreadable) > self._options.max_unreadable_share * len(self._corpus):
            raise DataError(
                f"{len(self._unreadable)} of the {len(self._corpus)} utterances of {self._corpus.root} cannot be read, "
                f"more than the share of {self._options.max_unreadable_share:g} that is allowed "
                f"({self._unreadable[-1]}); {self._folder / UNREADABLE} names them: mend or remove them "
                "and delete the packed folder, whose finished shards would be kept, or allow more"
            )

    def _name_unreadable(self) -> None:
        path = self._folder / UNREADABLE
        if not self._unreadable:
            path.unlink(missing_ok=True)
            return
        text = "".join(f"{reason}\n" for reason in self._unreadable)
        write_atomically(path, lambda temporary: _write(temporary, text.encode("utf-8", "surrogateescape")))

    def _save_table(self, tables: list[ShardTable]) -> None:
        corpus = self._corpus
        save_table(
            self._folder,
            tables,
            speakers=corpus.speakers,
            speaker_ids=corpus.speaker_ids,
            path_bytes=corpus.path_bytes,
            path_offsets=corpus.path_offsets,
            ignored_files=corpus.ignored_files,
            fingerprint=self._fingerprint,
        )
        number = len(tables)
        while shard_path(self._folder, number).exists():  # of an earlier call with smaller shards
            shard_path(self._folder, number).unlink()
            table_path(self._folder, number).unlink(missing_ok=True)
            number += 1

    def _say_what_there_is(self, tables: list[ShardTable]) -> None:
        samples = sum(int(table.num_samples.sum(dtype=np.int64)) for table in tables)
        lost = f"; {len(self._unreadable)} could not be read, see {UNREADABLE}" if self._unreadable else ""
        self._reporter.say(
            f"{self._folder}: {len(self._corpus):,} utterances of {len(self._corpus.speakers):,} speakers, "
            f"{samples / SAMPLE_RATE / 3600:,.1f} h in {len(tables)} shards, {in_words(bytes_of(samples))}{lost}"
        )


def sixteen_bits(path: Path) -> PackedSamples | Unreadable:
    """The samples of an audio file, to the nearest of 16 bits: [T]; or why it cannot be read."""
    try:
        samples = read(path)
    except AudioError as error:
        return Unreadable(str(error))
    scaled = np.rint(samples * np.float32(FULL_SCALE))
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _require_apart(source: Path, folder: Path) -> None:
    one, other = Path(os.path.realpath(source)), Path(os.path.realpath(folder))
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise DataError(f"{folder}: it lies in {source}, or around it; name a folder beside it to pack into")


def _require_own_folder(folder: Path) -> None:
    """Raise DataError where something else than a packed corpus lies in ``folder``."""
    for entry in folder.iterdir():
        if not entry.name.lstrip(".").startswith(("shard_", TABLE, UNREADABLE)):
            raise DataError(f"{folder}: it holds other files ({entry.name}); name an empty or a new folder")


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left; a file that still grows is somebody's work."""
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
