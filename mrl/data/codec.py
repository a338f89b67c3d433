"""Speech that was coded and decoded again: Opus and MP3 by libsndfile, which brings both, AAC by FFmpeg.

Encoders run on the CPU, so this happens in the data loading workers, to the crop as it was read: before its
speed, its room and everything that is added to it, as in a corpus that was collected as compressed files.
Three seconds take about 0.1 s of a core in Opus, and a fifth of that in the others.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from mrl.audio import SAMPLE_RATE, Samples
from mrl.data.effects import Effect, Items, Setup
from mrl.errors import DataError

OPUS_KBPS = (6.0, 256.0)
"""What libsndfile codes; beyond, the nearest of the two."""

MP3_KBPS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""The rates that MP3 has at 16 kHz (MPEG-2, ISO/IEC 13818-3); between, the nearest."""

_MP3_DELAY = (
    1105  # samples: 576 of the encoder, 529 of the decoder, where no header tells the decoder to skip them
)


class CodecPlan(NamedTuple):
    rows: list[int]  # positions in the batch
    codecs: list[str]
    kbps: list[float]


class Codec(Effect[CodecPlan]):
    """One of the configured codecs, at a bit rate drawn evenly.

    Raises DataError when made for aac where FFmpeg does not load.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if "aac" in self._config.codecs:
            _ffmpeg()  # before workers are forked: they share what it loads

    def plan(self, items: Items) -> CodecPlan | None:
        draws = items.draws("codec", ("whether", "choice", "kbps"))
        rows = items.chosen(draws["whether"], self._config.codec_probability)
        if not len(rows):
            return None
        codecs, (low, high) = self._config.codecs, self._config.codec_kbps
        return CodecPlan(
            rows=rows.tolist(),
            codecs=[codecs[int(draw * len(codecs))] for draw in draws["choice"][rows]],
            kbps=(low + (high - low) * draws["kbps"][rows]).tolist(),
        )

    def prepare(self, waveforms: Tensor, plan: CodecPlan) -> Tensor:
        prepared = waveforms.clone()
        for row, codec, kbps in zip(*plan, strict=True):
            prepared[row] = torch.from_numpy(round_trip(waveforms[row].numpy(), codec, kbps))
        return prepared


def round_trip(samples: Samples, codec: str, kbps: float) -> Samples:
    """``samples`` ``[T]``, 16 kHz, through ``codec`` at about ``kbps``: float32 ``[T]``, in step with its input.

    Opus takes any rate of :data:`OPUS_KBPS`, MP3 the nearest of :data:`MP3_KBPS`, AAC any up to what the signal
    can use (about 60 at 16 kHz). Opus and AAC keep it on average over seconds. The result may leave [-1, 1] a
    little.
    """
    decoded = _ROUND_TRIPS[codec](samples.astype(np.float32, copy=False), kbps)[: len(samples)]
    return np.pad(decoded, (0, len(samples) - len(decoded)))


def _opus(samples: Samples, kbps: float) -> Samples:
    lowest, highest = OPUS_KBPS
    level = (highest - min(max(kbps, lowest), highest)) / (highest - lowest)  # libsndfile spans the rates so
    return _by_libsndfile(samples, format="OGG", subtype="OPUS", compression_level=level)


def _mp3(samples: Samples, kbps: float) -> Samples:
    nearest = min(MP3_KBPS, key=lambda rate: abs(rate - kbps))
    level = (MP3_KBPS[-1] - nearest) / (MP3_KBPS[-1] - MP3_KBPS[0])
    decoded = _by_libsndfile(
        samples,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=min(level, 0.999),  # 1 is refused; the encoder takes the nearest rate
        bitrate_mode="CONSTANT",
    )
    # The frames of the low rates are too small for the header that states the delay and the length.
    return decoded[_MP3_DELAY:] if len(decoded) > len(samples) else decoded


def _by_libsndfile(samples: Samples, **options: Any) -> Samples:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, **options)
    file.seek(0)
    decoded: Samples = soundfile.read(file, dtype="float32")[0]
    return decoded


def _aac(samples: Samples, kbps: float) -> Samples:
    encoder, decoder = _ffmpeg()
    # An mp4 says how many samples the encoder put in front; bare AAC would be 1024 late.
    coded = encoder(torch.from_numpy(samples)[None], sample_rate=SAMPLE_RATE).to_tensor(
        format="mp4", bit_rate=round(1000 * kbps)
    )
    decoded: Samples = decoder(coded).get_all_samples().data[0].numpy()
    return decoded


def _ffmpeg() -> tuple[Any, Any]:
    """The classes that encode and decode with FFmpeg."""
    try:
        from torchcodec.decoders import AudioDecoder
        from torchcodec.encoders import AudioEncoder
    except (ImportError, OSError, RuntimeError):
        raise DataError(
            "augmentation.codecs: aac needs FFmpeg and torchcodec, which do not load; install FFmpeg 4 to 8 "
            "(`apt install ffmpeg`, `conda install ffmpeg`, `brew install ffmpeg`) or leave aac out"
        ) from None
    return AudioEncoder, AudioDecoder


_ROUND_TRIPS: dict[str, Callable[[Samples, float], Samples]] = {"opus": _opus, "mp3": _mp3, "aac": _aac}
