"""Random 3 s crops of files of 8 to 20 s: by range or seek, from whole-file decode, and from a packed corpus.

python -m benchmarks.decoding
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import lfilter
from torchcodec.decoders import AudioDecoder
from torchcodec.encoders import AudioEncoder

from benchmarks.table import Claim, Table
from benchmarks.timing import Timing, alternate, ratio
from mrl.audio import SAMPLE_RATE, Samples
from mrl.console import Console
from mrl.data.corpus import Corpus, scan
from mrl.data.packing import PackOptions, pack_corpus
from mrl.randomness import numpy_generator

FORMATS = ("wav", "flac", "ogg", "opus", "m4a", "mp3")
CROP_SAMPLES = 3 * SAMPLE_RATE
COMMAND = "python -m benchmarks.decoding"

_BY_FFMPEG = ("m4a", "mp3")  # what mrl.audio decodes with torchcodec
_WHOLE_CLAIMS = {"wav": 1.5, "flac": 2.0, "m4a": 1.2}
_PACKED_CLAIM = 5.0  # times as fast as whole-file decode of m4a
_PEAK = 0.5
_TURN_SECONDS = 0.05

Read = Callable[[Path, float], Samples]
"""A crop of a file, begun at a position in [0, 1)."""
Crop = Callable[[int, float], Samples]
"""The same of an utterance, by its number."""


def run(*, quick: bool = False) -> list[Table]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker of a data loader
    try:
        with tempfile.TemporaryDirectory() as folder:
            files, rounds = (2, 1) if quick else (20, 5)
            sources = {name: write_corpus(Path(folder) / name, name, files) for name in FORMATS}
            return [_table(sources, Path(folder), rounds), _backends(sources, rounds)]
    finally:
        torch.set_num_threads(threads)


def write_corpus(root: Path, name: str, count: int) -> Corpus:
    """``count`` files of the format ``name``, 8 to 20 s of noise with the spectrum and the beat of speech."""
    for number in range(count):
        generator = numpy_generator(0, "decoding", number)
        length = int(generator.uniform(8.0, 20.0) * SAMPLE_RATE)
        coloured = lfilter([1.0], [1.0, -0.95], generator.standard_normal(length))
        syllables = np.repeat(generator.uniform(0.02, 1.0, length // 2000 + 1), 2000)[:length]
        samples = (coloured * syllables).astype(np.float32)
        path = root / f"id{number % 2}" / f"{number:03d}.{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(path, samples * np.float32(_PEAK / np.abs(samples).max()))
    return scan(root, manifest_dir=None)


def _encode(path: Path, samples: Samples) -> None:
    if path.suffix == ".m4a":
        AudioEncoder(torch.from_numpy(samples)[None], sample_rate=SAMPLE_RATE).to_file(str(path))
    elif path.suffix == ".opus":
        soundfile.write(path, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, samples, SAMPLE_RATE)


def whole_file(path: Path, position: float) -> Samples:
    """What is usually done: decode everything, keep three seconds; by the library that is faster for it."""
    return (whole_by_torchcodec if path.suffix[1:] in _BY_FFMPEG else whole_by_soundfile)(path, position)


def whole_by_soundfile(path: Path, position: float) -> Samples:
    samples, _ = soundfile.read(path, dtype="float32")
    return samples[_start(len(samples), position) :][:CROP_SAMPLES]


def whole_by_torchcodec(path: Path, position: float) -> Samples:
    decoder = AudioDecoder(str(path))
    samples = decoder.get_all_samples().data[0].numpy()
    if path.suffix == ".m4a":  # what the encoder padded is no part of the recording
        samples = samples[: _header_length(decoder)]
    return samples[_start(len(samples), position) :][:CROP_SAMPLES]


def seek_by_soundfile(path: Path, position: float) -> Samples:
    with soundfile.SoundFile(path) as file:
        file.seek(_start(file.frames, position))
        samples: Samples = file.read(CROP_SAMPLES, dtype="float32")
        return samples


def range_by_torchcodec(path: Path, position: float) -> Samples:
    decoder = AudioDecoder(str(path))
    start = _start(_header_length(decoder), position)
    begin = (decoder.metadata.begin_stream_seconds_from_header or 0.0) + start / SAMPLE_RATE
    return decoder.get_samples_played_in_range(begin, begin + CROP_SAMPLES / SAMPLE_RATE).data[0].numpy()


def _header_length(decoder: AudioDecoder) -> int:
    seconds = decoder.metadata.duration_seconds_from_header
    assert seconds is not None
    return round(seconds * SAMPLE_RATE)


BACKENDS: Mapping[str, tuple[Read, tuple[str, ...]]] = {
    "soundfile, seek": (seek_by_soundfile, ("wav", "flac", "ogg", "opus")),
    "soundfile, whole": (whole_by_soundfile, ("wav", "flac", "ogg", "opus", "mp3")),
    "torchcodec, range": (range_by_torchcodec, ("wav", "flac", "m4a")),
    "torchcodec, whole": (whole_by_torchcodec, ("wav", "flac", "ogg", "m4a", "mp3")),
}
"""Ways to a crop, and the formats of which each gives the right samples."""


def _start(length: int, position: float) -> int:
    return int(position * (length - CROP_SAMPLES + 1))


def _table(sources: Mapping[str, Corpus], folder: Path, rounds: int) -> Table:
    rows, claims = [], []
    for name, corpus in sources.items():
        packed = pack(corpus, folder / f"packed_{name}")
        timings = _per_crop(
            {
                "whole": _of_files(corpus, whole_file),
                "ours": _of_corpus(corpus),
                "packed": _of_corpus(packed),
            },
            corpus,
            rounds,
        )
        whole, ours, from_shards = timings["whole"], timings["ours"], timings["packed"]
        faster, packed_faster = ratio(whole, ours), ratio(whole, from_shards)
        rows.append(
            [
                name,
                _milliseconds(whole),
                _milliseconds(ours),
                f"{faster:.1f}",
                f"{1 / ours.median:,.0f}",
                _milliseconds(from_shards),
                f"{packed_faster:.1f}",
                f"{1 / from_shards.median:,.0f}",
            ]
        )
        if name in _WHOLE_CLAIMS:
            text = f"{name}: a crop of the file against whole-file decode, times as fast"
            claims.append(Claim(text, faster, _WHOLE_CLAIMS[name]))
        if name == "m4a":
            text = "m4a: a crop of the packed corpus against whole-file decode, times as fast"
            claims.append(Claim(text, packed_faster, _PACKED_CLAIM))
    return Table(
        "Decoding: random 3 s crops of files of 8 to 20 s",
        COMMAND,
        ["format", "whole file, ms", "ours, ms", "ratio", "crops/s", "packed, ms", "ratio", "crops/s"],
        rows,
        claims,
        "One thread, files in the page cache. Ratios are against whole-file decode.",
    )


def _backends(sources: Mapping[str, Corpus], rounds: int) -> Table:
    """Every way to a crop of each format: the loader's choice is to be the fastest that is right."""
    rows = []
    for name, corpus in sources.items():
        contenders = {label: read for label, (read, formats) in BACKENDS.items() if name in formats}
        ways = {
            "ours": _of_corpus(corpus),
            **{label: _of_files(corpus, read) for label, read in contenders.items()},
        }
        timings = _per_crop(ways, corpus, rounds)
        cells = [_milliseconds(timings[label]) if label in timings else "-" for label in ("ours", *BACKENDS)]
        rows.append([name, *cells])
    return Table(
        "Decoding: every way to a crop",
        COMMAND,
        ["format", "ours, ms", *(f"{label}, ms" for label in BACKENDS)],
        rows,
        notes=(
            "`-`: the library cannot do it, or what it gives is not that part of the whole file at 16 kHz. Ours also "
            "checks for damage and silence. MP3 is decoded whole by FFmpeg, since libsndfile cuts one without a Xing "
            "header short, and is wrong after a seek."
        ),
    )


def pack(corpus: Corpus, folder: Path) -> Corpus:
    """``corpus`` packed into ``folder``."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        pack_corpus(corpus.root, folder, PackOptions(workers=2), Console(stream=nowhere))
    return scan(folder, manifest_dir=None)


def position_of(utterance: int) -> float:
    """Where the crop of an utterance begins, the same for all contenders."""
    return float(numpy_generator(0, "position", utterance).random())


def _of_corpus(corpus: Corpus) -> Crop:
    return lambda utterance, position: corpus.read_crop(utterance, CROP_SAMPLES, position)


def _of_files(corpus: Corpus, read: Read) -> Crop:
    return lambda utterance, position: read(corpus.path(utterance), position)


def _per_crop(ways: Mapping[str, Crop], corpus: Corpus, rounds: int) -> dict[str, Timing]:
    """Seconds for a crop. A turn is as many passes over the corpus as fill a twentieth of a second, one or more."""
    positions = [position_of(utterance) for utterance in range(len(corpus))]

    def passes(crop: Crop, count: int) -> None:
        for _ in range(count):
            for utterance, position in enumerate(positions):
                crop(utterance, position)

    counts = {}
    for name, crop in ways.items():
        passes(crop, 1)  # which loads libraries
        started = time.perf_counter()
        passes(crop, 1)
        counts[name] = 1 + int(_TURN_SECONDS / (time.perf_counter() - started))
    turns = {name: partial(passes, crop, counts[name]) for name, crop in ways.items()}
    timings = alternate(turns, rounds=rounds, warm_ups=0)
    return {
        name: Timing(tuple(taken / counts[name] / len(corpus) for taken in timing.seconds))
        for name, timing in timings.items()
    }


def _milliseconds(timing: Timing) -> str:
    return f"{timing.median * 1e3:.2f}"


if __name__ == "__main__":
    for table in run():
        table.show()
