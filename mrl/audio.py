"""Audio files in, 16 kHz mono float32 in [-1, 1] out.

WAV, FLAC, Ogg and Opus are read by libsndfile, which seeks to the sample. AAC (m4a) and MP3 are decoded by
FFmpeg through torchcodec, which is imported when the first such file is met. A crop holds exactly the samples
of that part of the whole file. Of m4a only what leads up to the crop's end is decoded; an MP3 is decoded whole,
because its header does not tell its length reliably.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import firwin, resample_poly

from mrl.errors import AudioError

SAMPLE_RATE = 16_000
"""Hz, of everything that is read."""

_FFMPEG_SUFFIXES = frozenset({".m4a", ".mp3"})
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus"}) | _FFMPEG_SUFFIXES
"""File name endings, in lower case, of audio that can be read."""

_SOURCE_RATES = range(1_000, 768_001)  # Hz; a header that says otherwise is damaged
_PLAUSIBLE_PEAK = 8.0  # lossy decoders overshoot 1 a little; integers stored as floats exceed it by far
_ENDLESS_FRAMES = 1 << 40  # of FLAC from a pipe libsndfile says more, and cannot read its end
_STREAMED_WAV_BYTES = 0x7FFF_0000  # programs that write to a pipe state at least this as the length
_HEADER_SLACK_SECONDS = 0.1  # an m4a may hold a few AAC frames less than its header says
_FILTER_HALF_WIDTH = 16  # zero crossings of the resampling filter on either side
_FILTER_ROLLOFF = 0.96  # its cut-off, as a share of the lower Nyquist frequency

Samples = NDArray[np.float32]


def read(path: Path | str, max_samples: int | None = None) -> Samples:
    """The whole of an audio file, or its first ``max_samples``: float32 ``[T]``, 16 kHz, mono, in [-1, 1].

    Channels are averaged and other rates resampled. Raises AudioError, naming the file, for one that is
    missing, empty, cut short, damaged, silent, or that holds NaN or infinity. MP3, Ogg and Opus state no
    length that could be checked: one that was cut short is read as a shorter one.
    """
    assert max_samples is None or max_samples > 0
    with _opened(Path(path)) as source:
        total = _length(source)
        samples = _samples(source, 0, total if max_samples is None else min(total, max_samples))
        return _checked(samples)


def num_samples(path: Path | str) -> int:
    """Samples of ``read(path)``: the length at 16 kHz that the header states.

    An MP3, and a FLAC whose header states none, are decoded to count them. Raises AudioError as :func:`read`
    does, for what shows without reading the samples.
    """
    with _opened(Path(path)) as source:
        return _length(source)


def read_crop(path: Path | str, num_samples: int, position: float) -> Samples:
    """``num_samples`` of an audio file at 16 kHz: float32 ``[num_samples]``.

    The crop equals ``read(path)[start : start + num_samples]``, where ``position`` in [0, 1) picks ``start``
    evenly among all that fit. A shorter file is repeated periodically, beginning at the ``position`` part of
    its length. Raises AudioError as :func:`read` does; "silent" then speaks of the crop.
    """
    assert num_samples > 0
    assert 0.0 <= position < 1.0
    with _opened(Path(path)) as source:
        total = _length(source)
        if total >= num_samples:
            start = int(position * (total - num_samples + 1))
            return _checked(_samples(source, start, start + num_samples))
        whole = _samples(source, 0, total)
        return _checked(np.resize(np.roll(whole, -int(position * total)), num_samples))


def load_decoder(path: Path) -> None:
    """Load the library that files like ``path`` need, so that processes forked later share it.

    FFmpeg's takes seconds. One that does not load is an error where a file is read, not here.
    """
    if path.suffix.lower() in _FFMPEG_SUFFIXES:
        with suppress(AudioError):
            _audio_decoder()


class _Source(Protocol):
    """An open file at its own rate. ``frames`` gives a range of them, the channels averaged."""

    rate: int
    num_frames: int

    def frames(self, start: int, stop: int) -> Samples: ...


class _SoundFileSource:
    """A file that libsndfile reads."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self.rate: int = file.samplerate
        self.num_frames: int = file.frames
        cut = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
        if cut and int(cut[2]) < int(cut[1]) < _STREAMED_WAV_BYTES:
            raise AudioError(f"cut short: its header promises {cut[1]} bytes of audio, it has {cut[2]}")

    def frames(self, start: int, stop: int) -> Samples:
        self._file.seek(start)
        frames: NDArray[np.float32] = self._file.read(stop - start, dtype="float32", always_2d=True)
        if len(frames) < stop - start:
            raise AudioError(f"cut short: sample {start + len(frames)} of {self.num_frames} is missing")
        return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)


class _FFmpegSource:
    """A file that FFmpeg decodes; times are counted from the first sample that is played."""

    def __init__(self, path: Path) -> None:
        self._decoder = _audio_decoder()(str(path))
        header = self._decoder.metadata
        self.rate: int = header.sample_rate
        self._whole: Samples | None = None
        if path.suffix.lower() == ".mp3" or not header.duration_seconds_from_header:
            self._whole = _mono(self._decoder.get_all_samples().data)
            self.num_frames = len(self._whole)
        else:
            self._begin = header.begin_stream_seconds_from_header or 0.0
            self.num_frames = round(header.duration_seconds_from_header * self.rate)

    def frames(self, start: int, stop: int) -> Samples:
        if self._whole is not None:
            return self._whole[start:stop]
        decoded = self._decoder.get_samples_played_in_range(
            self._begin + start / self.rate, self._begin + stop / self.rate
        )
        samples = _mono(decoded.data)
        missing = stop - start - len(samples)
        if missing > _HEADER_SLACK_SECONDS * self.rate:
            raise AudioError(f"cut short: sample {stop - missing} of {self.num_frames} is missing")
        return np.pad(samples, (0, missing)) if missing else samples


def _mono(frames: Any) -> Samples:
    """Samples [T] of a decoded tensor [channels, T]."""
    return frames[0].numpy() if len(frames) == 1 else frames.mean(dim=0).numpy()


def _audio_decoder() -> Any:
    """The class that decodes with FFmpeg."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise AudioError(
            f"decoding it needs FFmpeg and torchcodec, which do not load ({_reason(error)}); install FFmpeg "
            "4 to 8 (`apt install ffmpeg`, `conda install ffmpeg`, `brew install ffmpeg`) or convert to FLAC"
        ) from None
    return AudioDecoder


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    """The source for ``path``; whatever goes wrong with it becomes an AudioError that names the path."""
    try:
        suffix = path.suffix.lower()
        if suffix not in AUDIO_SUFFIXES:
            raise ValueError(suffix)
        if suffix in _FFMPEG_SUFFIXES:
            yield _FFmpegSource(path)
        else:
            with soundfile.SoundFile(os.fsencode(path)) as file:
                endless = file.frames >= _ENDLESS_FRAMES
                yield _FFmpegSource(path) if endless else _SoundFileSource(file)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from None
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise AudioError(f"{path}: {_why_unreadable(path, error)}") from None


def _why_unreadable(path: Path, error: Exception) -> str:
    """Looked into only after a failure, so that reading a good file costs no extra disk access."""
    if os.path.isdir(path):
        return "a folder, not an audio file"
    if not os.path.exists(path):
        return "no such file"
    if not os.access(path, os.R_OK):
        return "no permission to read it"
    if os.path.getsize(path) == 0:
        return "empty (0 bytes)"
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        return f"not an audio format that can be read ({', '.join(sorted(AUDIO_SUFFIXES))})"
    return f"damaged or cut short: {_reason(error)}"


def _reason(error: Exception) -> str:
    """The error in one line, without the place in a library's source or the file's name before it."""
    if isinstance(error, soundfile.LibsndfileError):
        return str(error.error_string).strip()
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^.*\.cpp:\d+, ", "", lines[0])


def _length(source: _Source) -> int:
    """Samples that the whole source has at 16 kHz."""
    if source.rate not in _SOURCE_RATES:
        raise AudioError(f"damaged: its header says {source.rate} samples per second")
    if source.num_frames <= 0:
        raise AudioError("it holds no samples")
    return -(-source.num_frames * SAMPLE_RATE // source.rate)


def _samples(source: _Source, start: int, stop: int) -> Samples:
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


def _checked(samples: Samples) -> Samples:
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise AudioError("it holds NaN or infinity")
    if peak == 0.0:
        raise AudioError("silent: every sample is zero")
    if peak > _PLAUSIBLE_PEAK:
        raise AudioError(f"it holds samples up to {peak:g}; floating-point audio must lie in [-1, 1]")
    return np.clip(samples, -1.0, 1.0) if peak > 1.0 else samples
