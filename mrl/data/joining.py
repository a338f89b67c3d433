"""Several corpora as one: each keeps its folder, and its speakers get its label before their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrl.data.corpus import Corpus
from mrl.data.listing import offsets_of
from mrl.errors import DataError


def join_corpora(corpora: Mapping[str, Corpus]) -> Corpus:
    """The corpora, by label, as one: speakers are called ``<label>/<speaker>``, in the order given.

    The speakers of two corpora are different people, whatever their folders are called. A single corpus is
    returned as it is, names and fingerprint included.

    Raises DataError for a corpus within another, whose files would stand under two speakers, and for a folder
    such as ``.`` or ``..`` whose name cannot be a label.
    """
    if len(corpora) == 1:
        return next(iter(corpora.values()))
    for label, corpus in corpora.items():
        if label in ("", ".", ".."):
            raise DataError(
                f"data.train: {corpus.root} has no folder name to label its speakers with; add a name"
            )
    roots = [corpus.root for corpus in corpora.values()]
    require_apart(roots)
    root = common_root(roots)
    parts = tuple(corpora.values())
    firsts = np.cumsum([0, *(len(part.speakers) for part in parts)])
    return Corpus(
        root,
        tuple(f"{label}/{speaker}" for label, part in corpora.items() for speaker in part.speakers),
        np.concatenate(
            [part.speaker_ids + np.int32(first) for part, first in zip(parts, firsts[:-1], strict=True)]
        ),
        np.concatenate([part.path_bytes for part in parts]),
        offsets_of(np.concatenate([np.diff(part.path_offsets) for part in parts])),
        sum(part.ignored_files for part in parts),
        tuple(Path(os.path.relpath(os.path.abspath(part), root)).as_posix() for part in roots),
        np.repeat(np.arange(len(parts), dtype=np.int16), np.diff(firsts)),
        tuple(part.packs[0] if part.packs else None for part in parts),
        _packed_numbers(parts),
    )


def _packed_numbers(parts: Sequence[Corpus]) -> NDArray[np.int32] | None:
    """Numbers of utterances in the packs of ``parts``, those in files, which have none, with zeros: [N]."""
    if all(part.packed_numbers is None for part in parts):
        return None
    numbers = [part.packed_numbers for part in parts]
    in_files = (np.zeros(len(part), dtype=np.int32) for part in parts)
    return np.concatenate(
        [none if packed is None else packed for packed, none in zip(numbers, in_files, strict=True)]
    )


def common_root(roots: Sequence[Path]) -> Path:
    """The one folder as it was given; of several, the absolute path of the deepest folder that holds them all."""
    if len(roots) == 1:
        return roots[0]
    return Path(os.path.commonpath([os.path.abspath(root) for root in roots]))


def require_apart(roots: Sequence[Path]) -> None:
    """Raise DataError where one of ``roots`` is, or lies in, another one; links are followed."""
    for inner, outer in permutations(roots, 2):
        if Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(outer)):
            raise DataError(
                f"data.train: {inner} lies in {outer}, another of its corpora, so its files would stand under "
                "two speakers; leave one out"
            )
