"""Room impulse responses: recorded, synthetic, and speech heard through them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.data.clips import ClipBank
from mrl.data.effects import Effect, Items, Setup, Signal, between
from mrl.data.noise import gain_to, power, white_noise

RESPONSE_SECONDS = 1.0
"""Longer responses are cut: a second after the direct sound, what a room still says is far below it."""

DIRECT_TO_REVERBERANT_DB = (0.0, 12.0)
"""Range for synthetic rooms: a talker between about half a metre and a few metres from the microphone."""

HELD_RESPONSES = 1024
"""At most so many recorded responses stay in memory (64 MB at 16 kHz), in each process that reads them."""

_DECAY_60_DB = 3.0 * math.log(10.0)  # 6.908: the exponent at which an amplitude has fallen by 60 dB


class RoomPlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    recorded: Tensor | None  # [N, L] responses; without them, synthetic ones from what follows
    decay_seconds: Tensor  # [N]
    direct_to_reverberant_db: Tensor  # [N]
    seeds: list[int]


class Room(Effect[RoomPlan]):
    """The room that an item is heard in, recorded, or synthetic where there are no recorded ones."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        bank = setup.banks.rooms
        self._recorded = None if bank is None else RecordedRooms(bank, SAMPLE_RATE)

    def plan(self, items: Items) -> RoomPlan | None:
        draws = items.shared_draws
        rows = items.chosen(draws["room"], self._config.room_probability)
        if not len(rows):
            return None
        recorded = None
        if self._recorded is not None:
            indices = (draws["room_choice"][rows] * len(self._recorded)).astype(int)
            recorded = torch.from_numpy(np.stack([self._recorded[index] for index in indices.tolist()]))
        return RoomPlan(
            rows=torch.from_numpy(rows),
            recorded=recorded,
            decay_seconds=between(self._config.room_decay_seconds, draws["room_decay"][rows]),
            direct_to_reverberant_db=between(DIRECT_TO_REVERBERANT_DB, draws["room_direct"][rows]),
            seeds=items.seeds(rows, "room"),
        )

    def apply(self, signal: Signal, plan: RoomPlan) -> Signal:
        responses = plan.recorded
        if responses is None:
            longest = min(RESPONSE_SECONDS, self._config.room_decay_seconds[1])
            white = white_noise(plan.seeds, round(longest * SAMPLE_RATE), signal.dry.device)
            responses = synthetic_responses(
                white, plan.decay_seconds, plan.direct_to_reverberant_db, sample_rate=SAMPLE_RATE
            )
        speech = signal.dry.index_copy(0, plan.rows, reverberate(signal.dry[plan.rows], responses))
        return signal._replace(speech=speech, mixed=speech)


class RecordedRooms:
    """Recorded responses as :func:`reverberate` wants them, the first ones read being held in memory."""

    def __init__(self, bank: ClipBank, sample_rate: int) -> None:
        self._bank = bank
        self._num_samples = round(RESPONSE_SECONDS * sample_rate)
        self._held: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._bank)

    def __getitem__(self, index: int) -> np.ndarray:
        """Response ``index``, float32 ``[L]``. An unreadable one is replaced, see :class:`ClipBank`."""
        if index in self._held:
            return self._held[index]
        response = from_direct_sound(self._bank.read(index), self._num_samples)
        if len(self._held) < HELD_RESPONSES:
            self._held[index] = response
        return response


def from_direct_sound(recording: np.ndarray, num_samples: int) -> np.ndarray:
    """A recorded response cut to start at its direct sound, so that it does not delay the speech.

    Args:
        recording: ``[N]``, not all zero; its largest magnitude counts as the direct sound.
        num_samples: length L of the result; the rest is cut off or filled with zeros.

    Returns:
        float32 ``[L]`` whose squares sum to 1.
    """
    start = int(np.argmax(np.abs(recording)))
    kept = recording[start : start + num_samples].astype(np.float64)
    response = np.zeros(num_samples, dtype=np.float32)
    response[: len(kept)] = kept / np.linalg.norm(kept)
    return response


def synthetic_responses(
    white: Tensor, decay_seconds: Tensor, direct_to_reverberant_db: Tensor, *, sample_rate: int
) -> Tensor:
    """Responses with a direct sound at sample 0 and a tail of exponentially decaying Gaussian noise.

    The tail's amplitude falls by 60 dB in ``decay_seconds``: exp(-6.908 t / RT60) (Polack's model; Habets,
    "Speech dereverberation using statistical reverberation models", 2010).

    Args:
        white: Gaussian noise ``[N, L]``.
        decay_seconds: RT60 ``[N]``.
        direct_to_reverberant_db: energy of the direct sound over that of the tail ``[N]``, dB.

    Returns:
        ``[N, L]``, the squares of each row summing to 1.
    """
    seconds = torch.arange(white.shape[1], device=white.device) / sample_rate
    tail = white * torch.exp(-_DECAY_60_DB * seconds / decay_seconds[:, None])
    tail[:, 0] = 0.0
    tail_level = 10.0 ** (-direct_to_reverberant_db[:, None] / 20.0)
    responses = torch.nn.functional.normalize(tail, dim=1) * tail_level
    responses[:, 0] = 1.0
    return torch.nn.functional.normalize(responses, dim=1)


def reverberate(speech: Tensor, responses: Tensor) -> Tensor:
    """Each row of ``speech`` ``[N, T]`` convolved with its row of ``responses`` ``[N, L]``.

    Returns:
        ``[N, T]``: the first T samples, each row with the power that it had before.
    """
    heard = convolve(speech, responses)
    return heard * gain_to(power(speech), heard)


def convolve(waveforms: Tensor, filters: Tensor, delay: int = 0) -> Tensor:
    """Each row of ``[N, T]`` convolved with its row of ``[N, L]``, or with the only one: T from ``delay`` on."""
    num_samples = waveforms.shape[1]
    size = next_fast_len(num_samples + filters.shape[1] - 1, real=True)
    spectrum = torch.fft.rfft(waveforms, n=size) * torch.fft.rfft(filters, n=size)
    return torch.fft.irfft(spectrum, n=size)[:, delay : delay + num_samples]
