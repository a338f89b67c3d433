"""Audio files in, 16 kHz mono float32 in [-1, 1] out.

WAV, FLAC, Ogg and Opus are read by libsndfile, which seeks to the sample. AAC (m4a) and MP3 are decoded by
FFmpeg through torchcodec, which is imported when the first such file is met. A crop holds exactly the samples
of that part of the whole file. Of m4a only what leads up to the crop's end is decoded; an MP3 is decoded whole,
because its header does not tell its length reliably. A path below a packed corpus (:mod:`mrl.packed`) gives the
samples that were packed under it, without a file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.signal import firwin, resample_poly

from mrl.audio_sources import (
    AUDIO_SUFFIXES,
    FFMPEG_SUFFIXES,
    SAMPLE_RATE,
    PackedSource,
    Samples,
    Source,
    audio_decoder,
    open_source,
    reason_of,
)
from mrl.errors import AudioError, DataError
from mrl.open_files import ADVICE, is_at_limit
from mrl.packed import PackedUtterance, find_utterance

__all__ = [
    "AUDIO_SUFFIXES",
    "SAMPLE_RATE",
    "Samples",
    "SilentPartError",
    "is_there",
    "load_decoder",
    "num_samples",
    "packed_crop",
    "printable",
    "read",
    "read_crop",
    "require_sound",
    "require_whole",
]

_SOURCE_RATES = range(1_000, 768_001)  # Hz; a header that says otherwise is damaged
# Samples of either rate until both have one at the same time. All rates in use stay far below; the filter of a
# damaged header's 767,999 Hz would take a gigabyte.
_LONGEST_COMMON_PERIOD = 100_000
_PLAUSIBLE_PEAK = 8.0  # lossy decoders overshoot 1 a little; integers stored as floats exceed it by far
_SILENT = "silent: every sample is zero"
_END_SAMPLES = SAMPLE_RATE // 10  # read to see that a file is whole
_FILTER_HALF_WIDTH = 16  # zero crossings of the resampling filter on either side
_FILTER_ROLLOFF = 0.96  # its cut-off, as a share of the lower Nyquist frequency


class SilentPartError(AudioError):
    """The part that was read is all zeros; another part of the file need not be."""


def read(path: Path | str, max_samples: int | None = None) -> Samples:
    """The whole of an audio file, or its first ``max_samples``: float32 ``[T]``, 16 kHz, mono, in [-1, 1].

    Channels are averaged and other rates resampled. Raises AudioError, naming the file, for one that is
    missing, empty, cut short, damaged, silent (SilentPartError where that is said of a part alone), or that holds
    NaN or infinity. MP3, Ogg and Opus state no
    length that could be checked: one that was cut short is read as a shorter one.
    """
    assert max_samples is None or max_samples > 0
    with _opened(Path(path)) as source:
        total = _length(source)
        samples = _samples(source, 0, total if max_samples is None else min(total, max_samples))
        return _checked(samples, total)


def num_samples(path: Path | str) -> int:
    """Samples of ``read(path)``: the length at 16 kHz that the header states.

    An MP3, and a FLAC whose header states none, are decoded to count them. Raises AudioError as :func:`read`
    does, for what shows without reading the samples.
    """
    with _opened(Path(path)) as source:
        return _length(source)


def require_whole(path: Path | str) -> None:
    """Read the header and the end of an audio file, which is quick where the format seeks.

    Raises AudioError as :func:`num_samples` does, and for a file whose end is missing or damaged.
    """
    with _opened(Path(path)) as source:
        total = _length(source)
        _samples(source, max(0, total - _END_SAMPLES), total)


def require_sound(path: Path | str) -> None:
    """Read all of an audio file, a minute at a time. Raises AudioError where :func:`read` would."""
    with _opened(Path(path)) as source:
        _length(source)
        minute = 60 * source.rate
        loudest = 0.0
        for start in range(0, source.num_frames, minute):
            loudest = max(loudest, _peak(source.frames(start, min(start + minute, source.num_frames))))
        if loudest == 0.0:
            raise AudioError(_SILENT)


def read_crop(path: Path | str, num_samples: int, position: float) -> Samples:
    """``num_samples`` of an audio file at 16 kHz: float32 ``[num_samples]``.

    The crop equals ``read(path)[start : start + num_samples]``, where ``position`` in [0, 1) picks ``start``
    evenly among all that fit. A shorter file is repeated periodically, beginning at the ``position`` part of
    its length. Raises AudioError as :func:`read` does, for what shows in the crop.
    """
    with _opened(Path(path)) as source:
        return _crop(source, num_samples, position)


def packed_crop(utterance: PackedUtterance, path: Path, num_samples: int, position: float) -> Samples:
    """:func:`read_crop` of an utterance of a packed corpus that is known already; ``path`` names it in errors."""
    with _naming(path):
        return _crop(PackedSource(utterance), num_samples, position)


def is_there(path: Path) -> bool:
    """Whether ``path`` is a file, or names an utterance of a packed corpus that it lies in."""
    return os.path.isfile(path) or find_utterance(path) is not None


def printable(path: Path | str) -> str:
    """The path in one line of text that any file can hold: line breaks and bytes that are no text are escaped."""
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(path))
    return "".join(shown)


def load_decoder(path: Path) -> None:
    """Load the library that files like ``path`` need, so that processes forked later share it.

    FFmpeg's takes seconds. One that does not load is an error where a file is read, not here.
    """
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        with suppress(AudioError):
            audio_decoder()


@contextmanager
def _opened(path: Path) -> Iterator[Source]:
    """The source for ``path``; whatever goes wrong with it becomes an AudioError that names the path."""
    with _naming(path):
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            raise ValueError(path.suffix)
        with closing(open_source(path)) as source:
            yield source


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except AudioError as error:
        raise type(error)(f"{printable(path)}: {error}") from None
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        if is_at_limit(error):  # which is no fault of the file, and not mended by another in its place
            raise DataError(f"{printable(path)}: {reason_of(error)}; {ADVICE}") from None
        raise AudioError(f"{printable(path)}: {_why_unreadable(path, error)}") from None


def _why_unreadable(path: Path, error: Exception) -> str:
    """Looked into only after a failure, so that reading a good file costs no extra disk access."""
    try:
        size = os.stat(path).st_size
    except PermissionError:
        return "no permission to read it"
    except (OSError, ValueError):  # no name of a file may hold a zero byte
        return "a link that leads nowhere" if os.path.islink(path) else "no such file"
    if not os.access(path, os.R_OK):
        return "no permission to read it"
    if size == 0:
        return "empty (0 bytes)"
    if isinstance(error, MemoryError):
        return "too long for the memory"
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        return f"not an audio format that can be read ({', '.join(sorted(AUDIO_SUFFIXES))})"
    return f"damaged or cut short: {reason_of(error)}"


def _length(source: Source) -> int:
    """Samples that the whole source has at 16 kHz."""
    if source.rate not in _SOURCE_RATES:
        raise AudioError(f"damaged: its header says {source.rate} samples per second")
    if max(source.rate, SAMPLE_RATE) // math.gcd(source.rate, SAMPLE_RATE) > _LONGEST_COMMON_PERIOD:
        raise AudioError(f"damaged: its header says {source.rate} samples per second")
    if source.num_frames <= 0:
        raise AudioError("it holds no samples")
    return -(-source.num_frames * SAMPLE_RATE // source.rate)


def _crop(source: Source, num_samples: int, position: float) -> Samples:
    assert num_samples > 0
    assert 0.0 <= position < 1.0
    total = _length(source)
    if total >= num_samples:
        start = int(position * (total - num_samples + 1))
        return _checked(_samples(source, start, start + num_samples), total)
    whole = _samples(source, 0, total)
    return _checked(np.resize(np.roll(whole, -int(position * total)), num_samples), total)


def _samples(source: Source, start: int, stop: int) -> Samples:
    """Samples ``start`` to ``stop`` of the source at 16 kHz.

    The resampling filter sees the frames around the range, so the result is that part of the whole file
    resampled. Ranges at the source's rate begin at multiples of ``down``, where both rates have a sample.
    """
    if source.rate == SAMPLE_RATE:
        return source.frames(start, stop)
    divisor = math.gcd(source.rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // divisor, source.rate // divisor
    margin = -(-_FILTER_HALF_WIDTH * max(up, down) // (up * down))
    first = max(0, start // up - margin)
    last = -(-stop // up) + margin
    frames = source.frames(first * down, min(last * down, source.num_frames))
    resampled: Samples = resample_poly(frames, up, down, window=_low_pass(max(up, down)))
    return resampled[start - first * up : stop - first * up]


@lru_cache(maxsize=16)
def _low_pass(factor: int) -> Samples:
    """A Kaiser-windowed sinc for resampling where the larger of the two factors is ``factor``."""
    taps = 2 * _FILTER_HALF_WIDTH * factor + 1
    return firwin(taps, _FILTER_ROLLOFF / factor, window=("kaiser", 8.0)).astype(np.float32)


def _checked(samples: Samples, total: int) -> Samples:
    """``samples`` of a file that has ``total``, if they are audio, within [-1, 1]."""
    peak = _peak(samples)
    if peak == 0.0 and len(samples) < total:
        raise SilentPartError("silent: every sample of this part is zero")
    if peak == 0.0:
        raise AudioError(_SILENT)
    return np.clip(samples, -1.0, 1.0) if peak > 1.0 else samples


def _peak(samples: Samples) -> float:
    """The largest magnitude. Raises AudioError for one that no audio has."""
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise AudioError("it holds NaN or infinity")
    if peak > _PLAUSIBLE_PEAK:
        raise AudioError(f"it holds samples up to {peak:g}; floating-point audio must lie in [-1, 1]")
    return peak
