"""Who of a million is it: a shortlist by a short prefix, re-ranked at full size, beside the exact search.

Nobody has a million real speakers at hand, so they are made around the real ones. Embeddings of length 1 differ within
a speaker by a covariance W, which is measured. An enrolled vector is a real one moved by noise of covariance W and
brought back to length 1; a query is an enrolled vector moved so once more, like another recording of that speaker. The
made speakers around one real vector are as close as recordings of one speaker are, closer than other people, so the
recall found here is more likely too low than too high.

FAISS (Douze et al., "The FAISS library", arXiv 2401.08281) does the searching and is imported here alone.

Shapes: M real vectors, D embedding, d short prefix, n enrolled, Q queries, B those of a batch, L shortlist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.errors import DataError, MRLError
from mrl.evaluation.embedding import Advance
from mrl.evaluation.results import SearchPoint
from mrl.randomness import numpy_generator

QUERIES = 300
_BATCH = 100  # queries searched for at once
_CHUNK = 65_536  # vectors made at once
_PROBED_SHARE = 32  # one cell in so many is looked into
_TRAINED_PER_CELL = 64  # vectors that a cell's centre is found from
_SMALLEST_NORM = 1e-12

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]


class _Method(NamedTuple):
    name: str
    nearest: Callable[[Vectors], Places]  # the enrolled vector [B] nearest to each query [B, D]
    size: int  # bytes of what it searches in and re-ranks by
    length: int  # of its shortlist; 0: none


class _Shortlist(NamedTuple):
    name: str
    candidates: Callable[[Vectors], Places]  # [B, L] for the prefixes of queries [B, d]; -1: none found
    size: int  # bytes


def require_faiss() -> None:
    """Raises MRLError where the library is not installed."""
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise MRLError(
            f"the shortlist search needs the library faiss, which cannot be imported ({error}): "
            "uv sync --extra search"
        ) from None


def search_work(enrolled: int, queries: int = QUERIES) -> int:
    """How many items `shortlist_search` tells of in all."""
    return enrolled + queries


def shortlist_search(
    vectors: Vectors,
    speakers: ArrayLike,
    small_dim: int,
    *,
    enrolled: int,
    shortlist: int,
    seed: int,
    queries: int = QUERIES,
    advance: Advance | None = None,
) -> tuple[SearchPoint, ...]:
    """Recall, speed and memory of the exact search and of shortlists; all take turns, a batch of queries each.

    Args:
        vectors: raw embeddings [M, D] of real recordings.
        speakers: [M], whose they are.
        small_dim: the prefix that makes the shortlist.
        enrolled: vectors to search among; besides them, those of the short prefix are held once in float32 and twice
            in int8: 1.4 GB for a million of 256 numbers with 64, and 0.3 GB more while the prefixes are taken.
        shortlist: its length.
        seed: of the made vectors.
        queries: how many.
        advance: told of the vectors made and then of the queries searched (`search_work`).

    Raises:
        MRLError: FAISS is not installed.
        DataError: no speaker has two recordings, so that nothing can be said of how one speaker's differ.
    """
    require_faiss()
    assert 0 < small_dim < vectors.shape[1]
    noise = within_speaker_noise(vectors, speakers)
    everyone = enrolled_vectors(vectors, noise, enrolled, seed, advance)
    asked = query_vectors(everyone, noise, queries, seed)
    methods = _methods(everyone, small_dim, min(shortlist, enrolled))
    found, seconds = _take_turns(methods, asked, advance)
    return tuple(
        SearchPoint(
            method.name,
            small_dim,
            vectors.shape[1],
            enrolled,
            method.length,
            recall=float(np.mean(places == found[0])),  # the exact search comes first
            queries_per_second=queries / taken,
            megabytes=method.size / 1e6,
        )
        for method, places, taken in zip(methods, found, seconds, strict=True)
    )


def within_speaker_noise(vectors: Vectors, speakers: ArrayLike) -> Vectors:
    """A factor F [D, D], F F' being the covariance of unit ``vectors`` [M, D] about the mean of their speaker.

    Raises DataError where no speaker has two vectors.
    """
    _, inverse, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    freedom = len(vectors) - len(counts)
    if freedom == 0:
        raise DataError(
            "the shortlist search needs two recordings of one speaker at least, to know how they differ; "
            "evaluate on a list with several recordings of each speaker"
        )
    unit = _unit(vectors).astype(np.float64)
    sums = np.zeros((len(counts), unit.shape[1]))
    np.add.at(sums, inverse, unit)
    deviations = unit - (sums / counts[:, None])[inverse]
    variances, directions = np.linalg.eigh(deviations.T @ deviations / freedom)
    return (directions * np.sqrt(np.maximum(variances, 0))).astype(np.float32)


def enrolled_vectors(
    vectors: Vectors, noise: Vectors, count: int, seed: int, advance: Advance | None = None
) -> Vectors:
    """``count`` unit vectors around ``vectors`` [M, D], each of which is the centre of as many, to within one."""
    centres = _unit(vectors)
    made = np.empty((count, vectors.shape[1]), dtype=np.float32)
    for number, start in enumerate(range(0, count, _CHUNK)):
        chunk = made[start : start + _CHUNK]
        around = centres[np.arange(start, start + len(chunk)) % len(centres)]
        chunk[:] = _moved(around, noise, numpy_generator(seed, "enrolled vectors", number))
        if advance is not None:
            advance(len(chunk))
    return made


def query_vectors(enrolled: Vectors, noise: Vectors, count: int, seed: int) -> Vectors:
    """``count`` unit vectors, each another recording of one of ``enrolled`` [n, D]."""
    generator = numpy_generator(seed, "queries")
    return _moved(enrolled[generator.integers(len(enrolled), size=count)], noise, generator)


def _methods(everyone: Vectors, small_dim: int, length: int) -> list[_Method]:
    """The exact search first, then shortlists of ``length``, each re-ranked with ``everyone`` [n, D]."""
    import faiss

    def exact(queries: Vectors) -> Places:
        return faiss.knn(queries, everyone, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]

    def reranked(shortlist: _Shortlist) -> _Method:
        def nearest(queries: Vectors) -> Places:
            return rerank(everyone, queries, shortlist.candidates(_unit(queries[:, :small_dim])))

        return _Method(shortlist.name, nearest, everyone.nbytes + shortlist.size, length)

    shortlists = _shortlists(_unit(everyone[:, :small_dim]), length)
    return [_Method("exact", exact, everyone.nbytes, 0), *map(reranked, shortlists)]


def _shortlists(short: Vectors, length: int) -> list[_Shortlist]:
    """Over unit prefixes ``short`` [n, d]: as they are, in int8, and in int8 in cells, of which a few are searched."""
    import faiss

    (count, dim), inner_product = short.shape, faiss.METRIC_INNER_PRODUCT
    cells, bits = max(1, round(count**0.5)), faiss.ScalarQuantizer.QT_8bit
    centres = faiss.IndexFlatIP(dim)
    int8 = faiss.IndexScalarQuantizer(dim, bits, inner_product)
    in_cells = faiss.IndexIVFScalarQuantizer(centres, dim, cells, bits, inner_product)
    in_cells.nprobe = max(1, cells // _PROBED_SHARE)
    for index in (int8, in_cells):
        index.train(short[: _TRAINED_PER_CELL * cells])
        index.add(short)

    def flat(queries: Vectors) -> Places:
        return faiss.knn(queries, short, length, metric=inner_product)[1]

    codes, places = count * dim, count * 8
    return [
        _Shortlist("float32", flat, short.nbytes),
        _Shortlist("int8", lambda queries: int8.search(queries, length)[1], codes),
        _Shortlist(
            f"int8, {in_cells.nprobe} of {cells} cells",
            lambda queries: in_cells.search(queries, length)[1],
            codes + places + cells * dim * 4,
        ),
    ]


def rerank(everyone: Vectors, queries: Vectors, candidates: Places) -> Places:
    """Of each query's ``candidates`` [B, L] the one [B] with the largest dot product; -1 is no candidate."""
    scores = (everyone[candidates] @ queries[:, :, None])[:, :, 0]
    scores[candidates < 0] = -np.inf
    best = scores.argmax(1)
    return candidates[np.arange(len(best)), best]


def _take_turns(
    methods: Sequence[_Method], queries: Vectors, advance: Advance | None
) -> tuple[list[Places], list[float]]:
    """What each method finds for ``queries`` [Q, D], and its seconds; the first to search changes with the batch."""
    found = [np.empty(len(queries), dtype=np.int64) for _ in methods]
    seconds = [0.0] * len(methods)
    for method in methods:
        method.nearest(queries[: _BATCH // 10])  # threads and buffers are there before the clock runs
    for turn, batch in enumerate(_batches(len(queries))):
        for place in range(len(methods)):
            number = (place + turn) % len(methods)
            started = time.perf_counter()
            found[number][batch] = methods[number].nearest(queries[batch])
            seconds[number] += time.perf_counter() - started
        if advance is not None:
            advance(len(queries[batch]))
    return found, seconds


def _batches(count: int) -> Iterator[slice]:
    for start in range(0, count, _BATCH):
        yield slice(start, start + _BATCH)


def _moved(centres: Vectors, noise: Vectors, generator: np.random.Generator) -> Vectors:
    return _unit(centres + generator.standard_normal(centres.shape, dtype=np.float32) @ noise.T)


def _unit(rows: Vectors) -> Vectors:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(_SMALLEST_NORM))
