"""Open audio files, each at its own rate: by libsndfile, by FFmpeg, or from the shards of a packed corpus."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from mrl.errors import AudioError
from mrl.packed import PackedUtterance, find_utterance

SAMPLE_RATE = 16_000
"""Hz, of everything that is read."""

FFMPEG_SUFFIXES = frozenset({".m4a", ".mp3"})
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus"}) | FFMPEG_SUFFIXES
"""File name endings, in lower case, of audio that can be read."""

_ENDLESS_FRAMES = 1 << 40  # of FLAC from a pipe libsndfile says more, and cannot read its end
_STREAMED_WAV_BYTES = 0x7FFF_0000  # programs that write to a pipe state at least this as the length
_HEADER_SLACK_SECONDS = 0.1  # an m4a may hold a few AAC frames less than its header says
_NO_AUDIO_STREAM = "no specified stream"  # what torchcodec says of a file with pictures alone
_MP4_MARK = slice(4, 8), b"ftyp"  # ISO/IEC 14496-12, 4.3: where an MP4 says that it is one

Samples = NDArray[np.float32]


class Source(Protocol):
    """An open file at its own rate. ``frames`` gives a range of them, the channels averaged."""

    rate: int
    num_frames: int

    def frames(self, start: int, stop: int) -> Samples: ...

    def close(self) -> None: ...


class PackedSource:
    """An utterance of a packed corpus, at 16 kHz."""

    rate = SAMPLE_RATE

    def __init__(self, utterance: PackedUtterance) -> None:
        self._utterance = utterance
        self.num_frames: int = utterance.shards.length(utterance.number)

    def frames(self, start: int, stop: int) -> Samples:
        return self._utterance.shards.samples(self._utterance.number, start, stop)

    def close(self) -> None:
        """A shard is open only while it is read."""


class SoundFileSource:
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

    def close(self) -> None:
        self._file.close()


class FFmpegSource:
    """A file that FFmpeg decodes; times are counted from the first sample that is played."""

    def __init__(self, path: Path) -> None:
        self._decoder, self._file = _decoder_of(path)
        header = self._decoder.metadata
        self.rate: int = header.sample_rate
        self._whole: Samples | None = None
        # By what it holds: the file may be called something else.
        if (header.codec or "").startswith("mp3") or not header.duration_seconds_from_header:
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

    def close(self) -> None:
        """The decoder closes what it opened when it goes."""
        if self._file is not None:
            self._file.close()


def _decoder_of(path: Path) -> tuple[Any, BinaryIO | None]:
    """A decoder of the file, and the file itself where it had to be opened for the decoder."""
    decoder = audio_decoder()
    name = os.path.abspath(path)  # FFmpeg takes what precedes a colon in a relative one for a protocol
    # torchcodec takes names in UTF-8 alone.
    file = None if _is_utf8(name) else path.open("rb")
    try:
        return decoder(name if file is None else file), file
    except (RuntimeError, ValueError) as error:
        if file is not None:
            file.close()
        if _NO_AUDIO_STREAM in str(error):
            raise AudioError("it holds no audio") from None
        raise RuntimeError(reason_of(error).replace(f" {name}", "")) from None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mono(frames: Any) -> Samples:
    """Samples [T] of a decoded tensor [channels, T]."""
    return frames[0].numpy() if len(frames) == 1 else frames.mean(dim=0).numpy()


def audio_decoder() -> Any:
    """The class that decodes with FFmpeg."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise AudioError(
            f"decoding it needs FFmpeg and torchcodec, which do not load ({reason_of(error)}); install FFmpeg "
            "4 to 8 (`apt install ffmpeg`, `conda install ffmpeg`, `brew install ffmpeg`) or convert to FLAC"
        ) from None
    return AudioDecoder


def open_source(path: Path) -> Source:
    """The source for ``path``. Only where no file opens are packed corpora looked for: files cost no more for them.

    A pipe, a socket or a device is not opened: to open a pipe waits until somebody writes to it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError(f"{_kind_of_entry(path)}, not an audio file")
        if path.suffix.lower() in FFMPEG_SUFFIXES:
            return FFmpegSource(path)
        return _sound_file(path)
    except (AudioError, OSError, RuntimeError, ValueError):
        if (packed := find_utterance(path)) is None:
            raise
        return PackedSource(packed)


def _kind_of_entry(path: Path) -> str:
    """What a thing with a name is, if it is not a file."""
    mode = os.stat(path).st_mode
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _sound_file(path: Path) -> Source:
    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except soundfile.LibsndfileError:
        if _is_mp4(path):  # that is called something else
            return FFmpegSource(path)
        raise
    try:
        if file.frames < _ENDLESS_FRAMES:
            return SoundFileSource(file)
    except AudioError:
        file.close()
        raise
    file.close()
    return FFmpegSource(path)


def _is_mp4(path: Path) -> bool:
    place, mark = _MP4_MARK
    with path.open("rb") as file:
        return file.read(place.stop)[place] == mark


def reason_of(error: Exception) -> str:
    """The error in one line, without the place in a library's source or the file's name before it."""
    if isinstance(error, soundfile.LibsndfileError):
        return str(error.error_string).strip()
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^.*\.cpp:\d+, ", "", lines[0])
