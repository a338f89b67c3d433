"""Augmentation of training crops: a room, then noise and babble, then a change of level.

A batch is augmented in two steps. `Augmenter.plan` draws every item's choices and reads the clips that they
need from disk; it can run in a data loading worker. `Augmenter.apply` is batched tensor work on the device of
the waveforms and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrl.config import AugmentationConfig
from mrl.data.clips import ClipBank
from mrl.data.noise import at_snr, babble, choose_talkers, coloured_noise, white_noise
from mrl.data.rooms import (
    DIRECT_TO_REVERBERANT_DB,
    RESPONSE_SECONDS,
    RecordedRooms,
    reverberate,
    synthetic_responses,
)
from mrl.randomness import numpy_generator, seed_of

NOISE_EXPONENTS = (0.0, 2.0)
"""Spectral slopes of synthetic noise: from white to brown."""

# Drawn for each item whatever the configuration: turning one part off leaves the others as they were.
_DRAWS = (
    *("room", "room_choice", "room_decay", "room_direct"),
    *("noise", "noise_choice", "noise_position", "noise_colour", "noise_snr"),
    *("babble", "babble_talkers", "babble_snr", "gain", "gain_db"),
)  # fmt: skip

Numbers = Sequence[int] | Tensor
_Draws = dict[str, np.ndarray]  # each [B], in [0, 1)
_Key = tuple[int, str, int, int]
_Plan = TypeVar("_Plan", bound=NamedTuple)


class RoomPlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    recorded: Tensor | None  # [N, L] responses; without them, synthetic ones from what follows
    decay_seconds: Tensor  # [N]
    direct_to_reverberant_db: Tensor  # [N]
    seeds: list[int]


class NoisePlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    snr_db: Tensor  # [N]
    recorded: Tensor | None  # [N, T] clips; without them, coloured noise from what follows
    exponents: Tensor  # [N]
    seeds: list[int]


class BabblePlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    snr_db: Tensor  # [N]
    chosen: Tensor  # [N, B] 1 for each talker


class AugmentationPlan(NamedTuple):
    """What happens to each item of one batch; all tensors are on the CPU."""

    room: RoomPlan
    noise: NoisePlan
    babble: BabblePlan
    gain: Tensor  # [B] factors


class Augmenter:
    """Augments batches as a stage's ``augmentation`` section says.

    An item's choices depend on (seed, epoch, utterance) alone, whatever else is in the batch; only who talks
    in its babble depends on the batch. Noise and babble are drawn independently: an item may get both.

    Args:
        config: the stage's section.
        seed: of the run.
        noise: noise clips; without them, noise between white and brown is synthesised.
        rooms: room impulse responses; without them, exponentially decaying ones are synthesised.
        sample_rate: of the waveforms, Hz.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        *,
        seed: int,
        noise: ClipBank | None,
        rooms: ClipBank | None,
        sample_rate: int,
    ) -> None:
        self._config = config
        self._seed = seed
        self._noise = noise
        self._rooms = None if rooms is None else RecordedRooms(rooms, sample_rate)
        self._sample_rate = sample_rate

    def __call__(self, waveforms: Tensor, utterances: Numbers, speakers: Numbers, *, epoch: int) -> Tensor:
        """Plan and apply at once: ``[B, T]`` waveforms to ``[B, T]``; see the two methods."""
        plan = self.plan(utterances, speakers, epoch=epoch, num_samples=waveforms.shape[1])
        return self.apply(waveforms, plan)

    def plan(
        self, utterances: Numbers, speakers: Numbers, *, epoch: int, num_samples: int
    ) -> AugmentationPlan:
        """Draw the choices for a batch, and read what they need from disk.

        Args:
            utterances: ``[B]`` numbers that name the utterances across the run.
            speakers: ``[B]``, so that nobody babbles over themselves.
            epoch: same utterance, other epoch, other choices.
            num_samples: length T of the crops.

        Raises:
            DataError: a noise clip or a room response cannot be read.
        """
        keys = [(self._seed, "augment", epoch, int(utterance)) for utterance in _on_cpu(utterances)]
        # The first columns do not depend on the batch's size; the last ones rank the batch as babble.
        drawn = np.stack([numpy_generator(*key).random(len(_DRAWS) + len(keys)) for key in keys])
        draws = dict(zip(_DRAWS, drawn.T, strict=False))
        rankings = drawn[:, len(_DRAWS) :]
        return AugmentationPlan(
            room=self._plan_room(draws, keys),
            noise=self._plan_noise(draws, keys, num_samples),
            babble=self._plan_babble(draws, rankings, _on_cpu(speakers)),
            gain=self._plan_gain(draws),
        )

    @torch.no_grad()
    def apply(self, waveforms: Tensor, plan: AugmentationPlan) -> Tensor:
        """Augment a batch as planned.

        A signal-to-noise ratio is that of the speech, in its room, to what is added, over the crop. Samples
        may leave [-1, 1]: nothing is clipped or scaled back, as either would undo the levels asked for, and
        float32 features take any range.

        Args:
            waveforms: ``[B, T]`` on any device; not changed.
            plan: of this batch, for crops of T samples.

        Returns:
            float32 ``[B, T]`` on the device of ``waveforms``.
        """
        plan = _to_device(plan, waveforms.device)
        with torch.autocast(waveforms.device.type, enabled=False):
            dry = waveforms.float()
            speech = self._in_rooms(dry, plan.room)
            mixed = self._with_noise(speech, plan.noise)
            mixed = _with_babble(mixed, speech, dry, plan.babble)
            return mixed * plan.gain[:, None]

    def _plan_room(self, draws: _Draws, keys: list[_Key]) -> RoomPlan:
        rows = np.flatnonzero(draws["room"] < self._config.room_probability)
        recorded = None
        if self._rooms is not None and len(rows):
            indices = (draws["room_choice"][rows] * len(self._rooms)).astype(int)
            recorded = torch.from_numpy(np.stack([self._rooms[index] for index in indices.tolist()]))
        return RoomPlan(
            rows=torch.from_numpy(rows),
            recorded=recorded,
            decay_seconds=_between(self._config.room_decay_seconds, draws["room_decay"][rows]),
            direct_to_reverberant_db=_between(DIRECT_TO_REVERBERANT_DB, draws["room_direct"][rows]),
            seeds=[seed_of(*keys[row], "room") for row in rows],
        )

    def _plan_noise(self, draws: _Draws, keys: list[_Key], num_samples: int) -> NoisePlan:
        rows = np.flatnonzero(draws["noise"] < self._config.noise_probability)
        recorded = None
        if self._noise is not None and len(rows):
            indices = (draws["noise_choice"][rows] * len(self._noise)).astype(int)
            starts = zip(indices.tolist(), draws["noise_position"][rows].tolist(), strict=True)
            clips = [self._noise.crop(index, num_samples, position) for index, position in starts]
            recorded = torch.from_numpy(np.stack(clips))
        return NoisePlan(
            rows=torch.from_numpy(rows),
            snr_db=_between(self._config.noise_snr_db, draws["noise_snr"][rows]),
            recorded=recorded,
            exponents=_between(NOISE_EXPONENTS, draws["noise_colour"][rows]),
            seeds=[seed_of(*keys[row], "noise") for row in rows],
        )

    def _plan_babble(self, draws: _Draws, rankings: np.ndarray, speakers: np.ndarray) -> BabblePlan:
        rows = np.flatnonzero(draws["babble"] < self._config.babble_probability)
        fewest, most = self._config.babble_speakers
        counts = fewest + (draws["babble_talkers"][rows] * (most - fewest + 1)).astype(int)
        chosen = choose_talkers(rankings[rows], rows, counts, speakers)
        return BabblePlan(
            rows=torch.from_numpy(rows),
            snr_db=_between(self._config.babble_snr_db, draws["babble_snr"][rows]),
            chosen=torch.from_numpy(chosen),
        )

    def _plan_gain(self, draws: _Draws) -> Tensor:
        factors = 10.0 ** (_between(self._config.gain_db, draws["gain_db"]) / 20.0)
        changed = torch.from_numpy(draws["gain"] < self._config.gain_probability)
        return torch.where(changed, factors, 1.0)

    def _in_rooms(self, dry: Tensor, plan: RoomPlan) -> Tensor:
        if not len(plan.rows):
            return dry
        responses = plan.recorded
        if responses is None:
            longest = min(RESPONSE_SECONDS, self._config.room_decay_seconds[1])
            white = white_noise(plan.seeds, round(longest * self._sample_rate), dry.device)
            responses = synthetic_responses(
                white, plan.decay_seconds, plan.direct_to_reverberant_db, sample_rate=self._sample_rate
            )
        return dry.index_copy(0, plan.rows, reverberate(dry[plan.rows], responses))

    def _with_noise(self, speech: Tensor, plan: NoisePlan) -> Tensor:
        if not len(plan.rows):
            return speech
        noise = plan.recorded
        if noise is None:
            white = white_noise(plan.seeds, speech.shape[1], speech.device)
            noise = coloured_noise(white, plan.exponents, sample_rate=self._sample_rate)
        return _add(noise, speech, speech, plan)


def _with_babble(mixed: Tensor, speech: Tensor, dry: Tensor, plan: BabblePlan) -> Tensor:
    if not len(plan.rows):
        return mixed
    talkers = babble(dry, plan.chosen)
    return _add(talkers, mixed, speech, plan)


def _add(added: Tensor, mixed: Tensor, speech: Tensor, plan: NoisePlan | BabblePlan) -> Tensor:
    scaled = at_snr(added, speech[plan.rows], plan.snr_db)
    return mixed.index_copy(0, plan.rows, mixed[plan.rows] + scaled)  # index_add is six times slower on CPUs


def _to_device(plan: _Plan, device: torch.device) -> _Plan:
    """The plan, and the plans in it, with all tensors on ``device``."""

    def moved(field: Any) -> Any:
        if isinstance(field, Tensor):
            return field.to(device, non_blocking=True)
        return _to_device(field, device) if isinstance(field, RoomPlan | NoisePlan | BabblePlan) else field

    return plan._make(moved(field) for field in plan)


def _between(limits: tuple[float, float], shares: np.ndarray) -> Tensor:
    low, high = limits
    return torch.from_numpy(low + (high - low) * shares).float()


def _on_cpu(numbers: Numbers) -> np.ndarray:
    return torch.as_tensor(numbers, device="cpu").numpy()
