"""A corpus that holds one of each kind of file that goes wrong, between speakers that are in order.

What must happen. "Read" files sound like any other; "replaced" ones are named with their reason, counted under their
kind, and an utterance of the same speaker is learnt from in their place (of another, where a speaker has no other).

    | file                                            |                                                      |
    |-------------------------------------------------|------------------------------------------------------|
    | 8 bit, 64-bit float, stereo, 96 kHz             | read                                                 |
    | 0.05 s                                          | read, repeated to the length of the crop             |
    | 3 h                                             | read; only the crop is                               |
    | wrong extension, but sound                      | read as what it is                                   |
    | header of a stream, which states no length      | read to its end                                      |
    | silent in part                                  | read; a silent crop gives way to one from elsewhere  |
    | a folder called x.wav                           | entered like any folder                              |
    | a name that is not UTF-8, or holds ": " or "\\n" | read; shown escaped                                  |
    | a folder that links to itself, or up the tree   | entered once                                         |
    | empty, header alone, zero samples               | replaced: empty                                      |
    | cut short; claims more than there is            | replaced: cut short or not audio                     |
    | text; 0 channels; 0, 1, 767,999 or 10^9 Hz      | replaced: cut short or not audio; nothing is held    |
    | silent throughout                               | replaced: silent                                     |
    | NaN, infinity                                   | replaced: not finite                                 |
    | integers stored as floats                       | replaced: not in [-1, 1]                             |
    | broken link, link to itself, two that link each other | replaced: missing; so is what vanishes         |
    | pipe, socket, device                            | replaced: not a file; never opened                   |
    | no permission                                   | replaced: without permission                         |
    | a folder that cannot be listed                  | an error before the run, which names it              |
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from mrl.audio import SAMPLE_RATE

THREE_HOURS = 3 * 3600
NOT_UTF8 = os.fsdecode(b"\xff\xfe")
ENDLESS = 0xFFFF_FFFF  # what a program that writes a WAV to a pipe states as its length
_PAUSE = 1_600  # samples, at either end of the tone of a file that is silent in part

Maker = Callable[[Path], object]


class Planted(NamedTuple):
    """What :func:`plant_bad_corpus` has made: paths below the root, with forward slashes."""

    usable: list[str]
    unusable: dict[str, str]
    """The kind (see :mod:`mrl.data.unreadable`) of each file that cannot be used."""

    def __len__(self) -> int:
        return len(self.usable) + len(self.unusable)


def tone(rate: int = SAMPLE_RATE, seconds: float = 0.9) -> NDArray[np.float32]:
    """What every usable file holds: 440 Hz at 0.4 of full scale."""
    times = np.arange(round(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def header(
    size: int, *, channels: int = 1, rate: int = SAMPLE_RATE, bits: int = 16, claimed: int | None = None
) -> bytes:
    """A WAV header (Microsoft and IBM, "Multimedia Programming Interface", 1991) before ``size`` bytes of samples."""
    claimed = size if claimed is None else claimed
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, min(rate * frame, 2**32 - 1), frame, bits)
    whole = min(36 + claimed, 2**32 - 1)
    start = b"RIFF" + struct.pack("<I", whole) + b"WAVEfmt " + struct.pack("<I", len(form))
    return start + form + b"data" + struct.pack("<I", claimed)


def write_three_hours(path: Path) -> None:
    """Three hours of 8 bit at 8 kHz, a sparse file: a tone in the first and the last second, full scale between."""
    rate = 8_000
    samples = np.uint8(128 + 127 * tone(rate, 1.0)).tobytes()
    with path.open("wb") as file:
        file.write(header(THREE_HOURS * rate, rate=rate, bits=8) + samples)
        file.seek(THREE_HOURS * rate - 2 * rate, os.SEEK_CUR)
        file.write(samples)


def _sound(rate: int = SAMPLE_RATE, *, subtype: str | None = None, seconds: float = 0.9) -> Maker:
    return lambda path: soundfile.write(
        os.fsencode(path), tone(rate, seconds), rate, subtype=subtype, format="WAV"
    )


def _stereo(path: Path) -> None:
    soundfile.write(path, np.stack([1.5 * tone(), 0.5 * tone()], axis=1), SAMPLE_RATE)


def _partly_silent(path: Path) -> None:
    pause = np.zeros(_PAUSE, dtype=np.float32)
    soundfile.write(path, np.concatenate([pause, tone(), pause]), SAMPLE_RATE)


def _values(*values: float) -> Maker:
    """Enough of these for any crop to hold them all."""
    return lambda path: soundfile.write(
        path, np.resize(np.float32(values), 4000), SAMPLE_RATE, subtype="FLOAT"
    )


def _damaged(size: int = 8000, **claims: int) -> Maker:
    return lambda path: path.write_bytes(header(size, **claims) + bytes(range(250)) * (size // 250))


def _streamed(path: Path) -> None:
    samples = np.int16(np.rint(32767 * tone())).tobytes()
    path.write_bytes(header(len(samples), claimed=ENDLESS) + samples)


def _cut(format: str) -> Maker:
    def make(path: Path) -> None:
        noise = np.random.default_rng(3).uniform(-0.5, 0.5, 20_000).astype(np.float32)
        soundfile.write(path, noise, SAMPLE_RATE, format=format)
        os.truncate(path, path.stat().st_size // 10)

    return make


def _link_to(target: str) -> Maker:
    return lambda path: path.symlink_to(target)


_HEADER = header(0)
USABLE: dict[str, Maker] = {
    "s1/eight_bit.wav": _sound(subtype="PCM_U8"),
    "s1/float64.wav": _sound(subtype="DOUBLE"),
    "s1/stereo.wav": _stereo,
    "s1/96_khz.wav": _sound(96_000),
    "s1/short.wav": _sound(seconds=0.05),
    "s1/three_hours.wav": write_three_hours,
    "s1/wav_called.flac": _sound(),
    "s1/flac_called.wav": lambda path: soundfile.write(path, tone(), SAMPLE_RATE, format="FLAC"),
    "s1/streamed.wav": _streamed,
    "s1/partly_silent.wav": _partly_silent,
    "s1/folder.wav/in_it.wav": _sound(),
    f"{NOT_UTF8}/{NOT_UTF8}.wav": _sound(),
    "s: 1/a: b\n.wav": _sound(),
}
UNUSABLE: dict[str, tuple[str, Maker]] = {
    "s2/empty.wav": ("empty", lambda path: path.touch()),
    "s2/no_samples.wav": ("empty", lambda path: path.write_bytes(_HEADER)),
    "s2/ten_bytes.wav": ("cut short or not audio", lambda path: path.write_bytes(_HEADER[:10])),
    "s2/cut.wav": ("cut short or not audio", _cut("WAV")),
    "s2/cut.flac": ("cut short or not audio", _cut("FLAC")),
    "s2/claims_more.wav": ("cut short or not audio", _damaged(claimed=1_000_000)),
    "s2/text.flac": ("cut short or not audio", lambda path: path.write_text("no audio\n" * 100)),
    "s2/no_channels.wav": ("cut short or not audio", _damaged(channels=0)),
    "s2/0_hz.wav": ("cut short or not audio", _damaged(rate=0)),
    "s2/1_hz.wav": ("cut short or not audio", _damaged(rate=1)),
    "s2/767999_hz.wav": ("cut short or not audio", _damaged(rate=767_999)),
    "s2/a_gigahertz.wav": ("cut short or not audio", _damaged(rate=10**9)),
    "s2/silent.wav": ("silent", _values(0.0)),
    "s2/nan.wav": ("not finite", _values(0.1, np.nan)),
    "s2/infinite.wav": ("not finite", _values(0.1, np.inf)),
    "s2/integers.wav": ("not in [-1, 1]", _values(1, 3000)),
    "s2/broken_link.wav": ("missing", _link_to("nowhere.wav")),
    "s2/itself.wav": ("missing", _link_to("itself.wav")),
    "s2/one.wav": ("missing", _link_to("other.wav")),
    "s2/other.wav": ("missing", _link_to("one.wav")),
    "s2/pipe.wav": ("not a file", lambda path: os.mkfifo(path)),
    "s2/socket.wav": ("not a file", lambda path: os.mknod(path, stat.S_IFSOCK | 0o600)),
    "s2/device.wav": ("not a file", _link_to("/dev/zero")),
    f"s2/{NOT_UTF8}.wav": ("empty", lambda path: path.touch()),
    "s2/a: b\n.wav": ("empty", lambda path: path.touch()),
}
ALL_BAD = "id_all_bad"
"""A speaker of whom nothing can be read."""


def plant_bad_corpus(root: Path, num_speakers: int = 4) -> Planted:
    """One of each kind in ``root``, dealt to speakers who have two sound utterances each besides, and `ALL_BAD`."""
    usable: list[str] = []
    unusable: dict[str, str] = {}
    speakers = [f"id_{number}" for number in range(num_speakers)]
    for speaker in speakers:
        for name in ("s1/good.wav", "s3/good.wav"):
            usable.append(_plant(root, f"{speaker}/{name}", _sound()))
    for number, (name, make) in enumerate(USABLE.items()):
        usable.append(_plant(root, f"{speakers[number % num_speakers]}/{name}", make))
    # The two halves of a loop of links lie side by side.
    together = {"s2/other.wav": "s2/one.wav"}
    place_of = {name: number for number, name in enumerate(UNUSABLE)}
    for name, (kind, make) in UNUSABLE.items():
        speaker = speakers[place_of[together.get(name, name)] % num_speakers]
        unusable[_plant(root, f"{speaker}/{name}", make)] = kind
    for name in ("s2/empty.wav", "s2/silent.wav"):
        kind, make = UNUSABLE[name]
        unusable[_plant(root, f"{ALL_BAD}/{name}", make)] = kind
    (root / speakers[0] / "up").symlink_to(root)
    (root / speakers[0] / "loop").symlink_to("loop")
    (root / speakers[0] / "loop.wav").symlink_to(".")
    return Planted(usable, unusable)


def _plant(root: Path, path: str, make: Maker) -> str:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    make(root / path)
    return path
