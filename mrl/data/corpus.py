"""A corpus of speech: ``<root>/<speaker>/**/<file>``, held as arrays.

A million utterances are three arrays, not a million strings: processes that load data share their memory.
N utterances, S speakers, C corpora joined into one (see :mod:`mrl.data.joining`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrl.audio import Samples, packed_crop, read_crop
from mrl.data.listing import LAYOUT, list_tree, offsets_of
from mrl.data.manifest import load_manifest, manifest_path, save_manifest
from mrl.errors import DataError
from mrl.packed import TABLE, PackedUtterance, Shards, is_packed, open_packed, require_finished

_NAMED_AT_MOST = 5


@dataclass(frozen=True, eq=False)
class Corpus:
    """Utterances in the order of (speaker, path); ``speaker_ids`` therefore ascend."""

    root: Path
    """The folder of the speakers; of several corpora, the folder that all of them lie in."""
    speakers: tuple[str, ...]  # [S], sorted; of several corpora <label>/<speaker>, corpus by corpus
    speaker_ids: NDArray[np.int32]  # [N]
    path_bytes: NDArray[
        np.uint8
    ]  # paths below the own corpus's folder, joined, in the file system's encoding
    path_offsets: NDArray[np.int64]  # [N + 1], where each begins
    ignored_files: int = 0
    """Audio files directly in ``root``, which belong to no speaker."""
    folders: tuple[str, ...] = ("",)  # [C], where each corpus lies below root, with forward slashes
    numbers_of_corpora: NDArray[np.int16] | None = None  # [S], each speaker's place in folders; None: all 0
    packs: tuple[Shards | None, ...] = ()
    """[C], where the samples of each corpus lie if it is packed, None: in files; empty where none is packed."""
    packed_numbers: NDArray[np.int32] | None = None  # [N], each utterance's number in its pack; None: no pack

    def __len__(self) -> int:
        return len(self.speaker_ids)

    @cached_property
    def corpus_of_speaker(self) -> NDArray[np.int16]:
        """Which of the joined corpora each speaker comes from: [S], all 0 where there is one."""
        if self.numbers_of_corpora is not None:
            return self.numbers_of_corpora
        return np.zeros(len(self.speakers), dtype=np.int16)

    def folder_of(self, utterance: int) -> str:
        """Where the utterance's corpus lies below ``root``; "" for ``root`` itself."""
        return self.folders[self._corpus_of(utterance)]

    def read_crop(self, utterance: int, num_samples: int, position: float) -> Samples:
        """:func:`mrl.audio.read_crop` of the utterance: from its file, or from the shards of a packed corpus.

        Raises AudioError as that does, and DataError for a damaged shard.
        """
        if self.packed_numbers is None or (pack := self.packs[self._corpus_of(utterance)]) is None:
            return read_crop(self.path(utterance), num_samples, position)
        packed = PackedUtterance(pack, int(self.packed_numbers[utterance]))
        return packed_crop(packed, self.path(utterance), num_samples, position)

    def example_files(self) -> list[Path]:
        """One audio file of each of the joined corpora that lies in files."""
        speakers, firsts = np.unique(self.speaker_ids, return_index=True)
        corpora, places = np.unique(self.corpus_of_speaker[speakers], return_index=True)
        return [
            self.path(int(firsts[place]))
            for corpus, place in zip(corpora, places, strict=True)
            if not self.packs or self.packs[corpus] is None
        ]

    def files(self) -> list[Path]:
        """The files that change when its samples do: the audio, or the table of a packed corpus, with its checksums."""
        packs = dict.fromkeys(pack.folder / TABLE for pack in self.packs if pack is not None)
        in_files = [
            item for item in range(len(self)) if not self.packs or self.packs[self._corpus_of(item)] is None
        ]
        return [*packs, *map(self.path, in_files)]

    def _corpus_of(self, utterance: int) -> int:
        return int(self.corpus_of_speaker[self.speaker_ids[utterance]])

    def speaker_folder(self, speaker_id: int) -> str:
        """The name of a speaker's folder: the speaker's name without the label of a joined corpus."""
        name = self.speakers[speaker_id]
        return name if self.numbers_of_corpora is None else name.partition("/")[2]

    def relative_path(self, utterance: int) -> str:
        """The path below ``root``, with forward slashes."""
        folder = self.folder_of(utterance)
        path = self._path_in_corpus(utterance)
        return f"{folder}/{path}" if folder else path

    def path(self, utterance: int) -> Path:
        """Its audio file; of a packed corpus, the name under which :mod:`mrl.packed` knows it."""
        return self.root / self.relative_path(utterance)

    def session_of(self, utterance: int) -> str:
        """The folder below the speaker's; "" for a file directly in the speaker's folder."""
        parts = self._path_in_corpus(utterance).split("/", 2)
        return parts[1] if len(parts) > 2 else ""

    def _path_in_corpus(self, utterance: int) -> str:
        start, stop = self.path_offsets[utterance], self.path_offsets[utterance + 1]
        return os.fsdecode(self.path_bytes[start:stop].tobytes())

    def utterances_of(self, speaker_id: int) -> NDArray[np.int64]:
        """The utterances of a speaker, ascending."""
        return np.arange(self._first_utterance[speaker_id], self._first_utterance[speaker_id + 1])

    @cached_property
    def _first_utterance(self) -> NDArray[np.int64]:
        """Where each speaker begins, and where the last one ends: [S + 1]."""
        return np.searchsorted(self.speaker_ids, np.arange(len(self.speakers) + 1)).astype(np.int64)

    def subset(self, keep: NDArray[np.bool_]) -> Corpus:
        """The utterances marked in ``keep`` [N]; all speakers stay, with their numbers."""
        assert keep.shape == (len(self),)
        assert keep.dtype == bool
        lengths = np.diff(self.path_offsets)
        return replace(
            self,
            speaker_ids=self.speaker_ids[keep],
            path_bytes=self.path_bytes[np.repeat(keep, lengths)],
            path_offsets=offsets_of(lengths[keep]),
            packed_numbers=None if self.packed_numbers is None else self.packed_numbers[keep],
        )

    def select(self, keep: NDArray[np.bool_]) -> Corpus:
        """The utterances marked in ``keep`` [N]; speakers left without any go, the others are renumbered."""
        some = self.subset(keep)
        kept_speakers, speaker_ids = np.unique(some.speaker_ids, return_inverse=True)
        numbers = self.numbers_of_corpora
        return replace(
            some,
            speakers=tuple(self.speakers[speaker] for speaker in kept_speakers),
            speaker_ids=speaker_ids.astype(np.int32),
            numbers_of_corpora=None if numbers is None else numbers[kept_speakers],
        )

    def split_speakers(self, held_out: Collection[str]) -> tuple[Corpus, Corpus]:
        """The corpus without the speakers ``held_out``, and these alone. DataError for an unknown speaker."""
        names = set(held_out)
        if unknown := sorted(names - set(self.speakers)):
            raise DataError(f"{self.root}: no such speaker: {', '.join(unknown[:_NAMED_AT_MOST])}")
        is_out = np.array([speaker in names for speaker in self.speakers], dtype=bool)[self.speaker_ids]
        return self.select(~is_out), self.select(is_out)

    def fingerprint(self) -> str:
        """SHA-256 over the paths below each corpus's folder: the same for the same files, wherever that lies.

        Of several corpora the speakers' names, and with them the labels, are in it too.
        """
        digest = hashlib.sha256(self.path_offsets.astype("<i8").tobytes())
        digest.update(self.path_bytes.tobytes())
        if self.numbers_of_corpora is not None:
            digest.update(self.speaker_ids.astype("<i4").tobytes())
            digest.update(os.fsencode("\0".join(self.speakers)))
        return digest.hexdigest()


def scan(
    root: Path | str, *, manifest_dir: Path | None, progress: Callable[[int], None] | None = None
) -> Corpus:
    """Find the audio files below ``root``, or open the packed corpus there.

    Names that begin with a dot are left out. Links are followed, but no folder is entered twice for the same
    speaker. With ``manifest_dir`` the result is kept there and used again until a folder of the tree changes:
    files or folders added, removed or renamed. What is in the files is not looked at.

    Args:
        root: folder that holds one folder for each speaker.
        manifest_dir: folder for manifests; None scans anew each time.
        progress: told how many files one more speaker has, as the scan goes on; not called for a kept result.

    Raises:
        DataError: a folder cannot be listed; ``root`` holds no speaker folder or no audio; the manifest
            cannot be written; a packed corpus is not finished, or a part of it is damaged or cut.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {LAYOUT}")
    if is_packed(root):
        return _packed(root)
    require_finished(root)
    manifest = None if manifest_dir is None else manifest_path(manifest_dir, root)
    if manifest is not None and (kept := load_manifest(manifest, root)) is not None:
        return Corpus(root, *kept)
    started_ns = time.time_ns()
    listing, folders = list_tree(root, progress)
    if manifest is not None:
        save_manifest(manifest, listing, folders, started_ns)
    return Corpus(root, *listing)


def _packed(root: Path) -> Corpus:
    packed = open_packed(root)
    numbers = np.arange(len(packed.speaker_ids), dtype=np.int32)
    return Corpus(
        root,
        packed.speakers,
        packed.speaker_ids,
        packed.path_bytes,
        packed.path_offsets,
        packed.ignored_files,
        packs=(packed.shards,),
        packed_numbers=numbers,
    )
