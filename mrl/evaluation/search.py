"""Who of a million is it: a shortlist by a short prefix, re-ranked at full size, beside the exact search.

Nobody has a million real speakers at hand, so they are made. The model: a recording, at length 1, is its speaker's
centre plus noise of covariance W, and centres have the mean and the covariance B of the real ones (two-covariance
model: Brümmer and de Villiers, "The speaker partitioning problem", Odyssey 2010). W is measured from how recordings
differ from the mean of their speaker, B from how those means differ from each other. The first made speakers have the
real centres, all others centres drawn from a normal distribution. An enrolled vector is a recording of its speaker, and
a query another one of the same centre, so the two are as close as real recordings of one speaker are.

Which way the recall is off is not known. B of S speakers has at most S - 1 directions, so that made speakers are more
crowded than real ones, which makes the search harder; but a normal distribution has no look-alikes and one W no
speaker or recording worse than others, which makes it easier. Recall is agreement with the exact search, right or not.

FAISS (Douze et al., "The FAISS library", arXiv 2401.08281) does the searching and is imported here alone.

Shapes: M real vectors of S speakers, D embedding, d short prefix, n enrolled, Q queries, B rows of a batch,
L shortlist.
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


class SpeakerModel(NamedTuple):
    """Where speakers are, and how recordings of one differ; covariances as factors F of F F'."""

    centres: Vectors  # [S, D], of the real speakers
    mean: Vectors  # [D], of the centres
    between: Vectors  # [D, D], a factor of B
    within: Vectors  # [D, D], a factor of W


class Gallery(NamedTuple):
    """One recording of each made speaker, and queries by some of them."""

    enrolled: Vectors  # [n, D], of length 1
    queries: Vectors  # [Q, D], of length 1
    own: Places  # [Q], the enrolled vector whose speaker asks


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
        DataError: as `speaker_model` does.
    """
    require_faiss()
    assert 0 < small_dim < vectors.shape[1]
    model = speaker_model(vectors, speakers)
    everyone, asked, _ = made_gallery(model, enrolled, queries, seed, advance)
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


def speaker_model(vectors: Vectors, speakers: ArrayLike) -> SpeakerModel:
    """The model of unit ``vectors`` [M, D] of ``speakers`` [M].

    The mean of n recordings still has W / n of their noise, which sets means apart by more than B. All are drawn
    towards their common mean, by one factor, until the trace of their covariance is B's.
    Raises DataError for one speaker alone, or where no speaker has two recordings.
    """
    _, inverse, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    freedom = len(vectors) - len(counts)
    if freedom == 0 or len(counts) == 1:
        raise DataError(
            "the shortlist search needs two speakers, and two recordings of one of them at least, to know how "
            "speakers and recordings differ; evaluate on a list with several recordings of each speaker"
        )
    unit = _unit(vectors).astype(np.float64)
    means = np.zeros((len(counts), unit.shape[1]))
    np.add.at(means, inverse, unit)
    means /= counts[:, None]
    noise = unit - means[inverse]
    within = noise.T @ noise / freedom
    mean = means.mean(0)
    apart = means - mean
    spread = np.square(apart).sum() / len(apart)
    left = np.trace(within) * np.mean(1 / counts)
    apart *= np.sqrt(max(0.0, spread - left) / spread) if spread else 0.0
    # Divided by S, not S - 1: the mean of S centres is itself off by B / S, so that made centres are as long as real.
    between = apart.T @ apart / len(apart)
    return SpeakerModel(_single(mean + apart), _single(mean), _factor(between), _factor(within))


def made_gallery(
    model: SpeakerModel, count: int, queries: int, seed: int, advance: Advance | None = None
) -> Gallery:
    """Enrolled vectors of ``count`` made speakers, the real ones first, and ``queries`` by speakers chosen at random.

    Centres are made a chunk at a time, and those of the speakers that ask are all that is kept of them.
    """
    own = np.sort(numpy_generator(seed, "who asks").integers(count, size=queries))
    enrolled = np.empty((count, len(model.mean)), dtype=np.float32)
    asking = np.empty((queries, len(model.mean)), dtype=np.float32)
    for number, start in enumerate(range(0, count, _CHUNK)):
        chunk = enrolled[start : start + _CHUNK]
        centres = _made_centres(model, len(chunk), numpy_generator(seed, "made speakers", number))
        real = model.centres[start : start + len(chunk)]
        centres[: len(real)] = real
        first, last = np.searchsorted(own, [start, start + len(chunk)])
        asking[first:last] = centres[own[first:last] - start]
        chunk[:] = _recordings(centres, model, numpy_generator(seed, "enrolled vectors", number))
        if advance is not None:
            advance(len(chunk))
    generator = numpy_generator(seed, "queries")
    asked, shuffled = _recordings(asking, model, generator), generator.permutation(queries)
    return Gallery(enrolled, asked[shuffled], own[shuffled])


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


def _made_centres(model: SpeakerModel, count: int, generator: np.random.Generator) -> Vectors:
    drawn = generator.standard_normal((count, len(model.mean)), dtype=np.float32)
    return model.mean + drawn @ model.between.T


def _recordings(centres: Vectors, model: SpeakerModel, generator: np.random.Generator) -> Vectors:
    """One recording at length 1 of each speaker in ``centres`` [B, D]."""
    return _unit(centres + generator.standard_normal(centres.shape, dtype=np.float32) @ model.within.T)


def _factor(covariance: NDArray[np.float64]) -> Vectors:
    variances, directions = np.linalg.eigh(covariance)
    return _single(directions * np.sqrt(np.maximum(variances, 0)))


def _single(numbers: NDArray[np.float64]) -> Vectors:
    return numbers.astype(np.float32)


def _unit(rows: Vectors) -> Vectors:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(_SMALLEST_NORM))
