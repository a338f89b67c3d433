"""Augmentation of training crops: a sequence of effects, each of them switched on by its probability.

A batch is augmented in three steps. `Augmenter.plan` draws every item's choices and reads the clips that they
need from disk, and `Augmenter.prepare` does what only a CPU can; both can run in a data loading worker.
`Augmenter.apply` is batched tensor work on the device of the waveforms and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrl.config import AugmentationConfig
from mrl.data.backgrounds import Babble, BabblePlan, Music, MusicPlan, Noise, NoisePlan
from mrl.data.channel import Clipping, ClippingPlan, Gain, GainPlan, Telephone, TelephonePlan
from mrl.data.clips import ClipBanks
from mrl.data.codec import Codec, CodecPlan
from mrl.data.effects import Effect, Items, Setup, Signal, to_device
from mrl.data.mixup import Mixup, MixupPlan
from mrl.data.rooms import Room, RoomPlan
from mrl.data.speed import Speed, SpeedPlan, crop_samples, source_samples
from mrl.loss import Targets

Numbers = Sequence[int] | Tensor

# In the order in which a recording comes about: a voice in a room, with what else is heard there; what it was
# passed on by, which damages all of that; its level, which would be lost if anything came after it; and last two
# finished items mixed. The codec would belong after the room, but it works on the CPU: see mrl/data/codec.py.
EFFECTS: dict[str, type[Effect[Any]]] = {
    "codec": Codec,
    "speed": Speed,
    "room": Room,
    "noise": Noise,
    "music": Music,
    "babble": Babble,
    "telephone": Telephone,
    "clipping": Clipping,
    "gain": Gain,
    "mixup": Mixup,
}
"""By the names of the fields of `AugmentationPlan` and of their ``<name>_probability``, in order."""


class AugmentationPlan(NamedTuple):
    """What happens to each item of one batch; all tensors are on the CPU. None: nothing of this kind."""

    codec: CodecPlan | None = None
    speed: SpeedPlan | None = None
    room: RoomPlan | None = None
    noise: NoisePlan | None = None
    music: MusicPlan | None = None
    babble: BabblePlan | None = None
    telephone: TelephonePlan | None = None
    clipping: ClippingPlan | None = None
    gain: GainPlan | None = None
    mixup: MixupPlan | None = None

    def targets(self, speakers: Tensor, num_speakers: int) -> Targets:
        """The classes of the augmented batch, on the device of ``speakers`` ``[B]``, which are 0..num_speakers - 1.

        A speaker at the j-th other speed is class ``j * num_speakers + speaker`` where speeds are new speakers.
        """
        classes = speakers
        if self.speed is not None and self.speed.blocks is not None:
            classes = classes + num_speakers * to_device(self.speed.blocks, speakers.device)
        if self.mixup is None:
            return Targets(classes)
        mixup = to_device(self.mixup, speakers.device)
        return Targets(classes, classes[mixup.partners], mixup.shares)


class Augmenter:
    """Augments batches as a stage's ``augmentation`` section says.

    An item's choices depend on (seed, epoch, utterance) alone, whatever else is in the batch; only who talks
    in its babble, where no clips are given for it, and whom it is mixed with depend on the batch. Effects are
    drawn independently: an item may get several, and to switch one on leaves the others' draws as they were.

    Args:
        config: the stage's section; its SpecAugment is the encoder's, see :mod:`mrl.models.spec_augment`.
        seed: of the run.
        banks: clips; noise, rooms and babble do without.
        first_epoch: the run's number of the stage's first epoch, where its ramp begins.

    Raises:
        DataError: codecs name aac, and FFmpeg does not load.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        *,
        seed: int,
        banks: ClipBanks,
        first_epoch: int = 1,
    ) -> None:
        self._config = config
        self._banks = banks
        self._seed = seed
        self._first_epoch = first_epoch
        self._speeds = config.speed_factors if config.speed_probability else ()
        setup = Setup(config, banks)
        self._effects = {
            name: effect(setup)
            for name, effect in EFFECTS.items()
            if getattr(config, f"{name}_probability") > 0.0
        }

    def source_samples(self, num_samples: int) -> int:
        """How many samples must be read for a crop of ``num_samples``: more where it may be played faster."""
        return source_samples(num_samples, self._speeds)

    def __call__(self, waveforms: Tensor, utterances: Numbers, speakers: Numbers, *, epoch: int) -> Tensor:
        """Plan, prepare and apply at once: CPU waveforms as read to augmented ones ``[B, T]``; see the methods."""
        plan = self.plan(utterances, speakers, epoch=epoch, num_samples=waveforms.shape[1])
        return self.apply(self.prepare(waveforms, plan), plan)

    def plan(
        self, utterances: Numbers, speakers: Numbers, *, epoch: int, num_samples: int
    ) -> AugmentationPlan:
        """Draw the choices for a batch, and read what they need from disk.

        Args:
            utterances: ``[B]`` numbers that name the utterances across the run.
            speakers: ``[B]``, so that nobody babbles over themselves.
            epoch: same utterance, other epoch, other choices.
            num_samples: of the crops as they are read: `source_samples` (T).

        Raises:
            DataError: ten clips or room responses, one after the other, cannot be read.
        """
        items = Items(
            self._seed,
            epoch,
            _on_cpu(utterances),
            _on_cpu(speakers),
            crop_samples(num_samples, self._speeds),
            ramp(self._config, epoch - self._first_epoch),
        )
        return AugmentationPlan(**{name: effect.plan(items) for name, effect in self._effects.items()})

    def newly_unreadable(self) -> list[str]:
        """What was wrong with clips that `plan` has replaced since this was asked last."""
        return self._banks.newly_unreadable()

    def prepare(self, waveforms: Tensor, plan: AugmentationPlan) -> Tensor:
        """The part of the augmentation that runs on the CPU: waveforms as read to the same shape; not in place."""
        for name, effect in self._effects.items():
            if (step := getattr(plan, name)) is not None:
                waveforms = effect.prepare(waveforms, step)
        return waveforms

    @torch.no_grad()
    def apply(self, waveforms: Tensor, plan: AugmentationPlan) -> Tensor:
        """Augment a prepared batch as planned.

        A signal-to-noise ratio is that of the speech, in its room, to what is added, over the crop. Samples
        may leave [-1, 1]: but for the clipping that was asked for nothing is clipped or scaled back, as either
        would undo the levels asked for, and float32 features take any range.

        Args:
            waveforms: ``[B, source_samples(T)]`` on any device; not changed.
            plan: of this batch.

        Returns:
            float32 ``[B, T]`` on the device of ``waveforms``.
        """
        plan = to_device(plan, waveforms.device)
        with torch.autocast(waveforms.device.type, enabled=False):
            signal = Signal.of(waveforms.float())
            for name, effect in self._effects.items():
                if (step := getattr(plan, name)) is not None:
                    signal = effect.apply(signal, step)
            return signal.mixed


def ramp(config: AugmentationConfig, stage_epoch: int) -> float:
    """The factor on every probability, SpecAugment's too, in epoch ``stage_epoch`` of a stage, counted from 0."""
    if not config.ramp_epochs:
        return 1.0
    return min(1.0, max(0, stage_epoch) / config.ramp_epochs)


def _on_cpu(numbers: Numbers) -> np.ndarray:
    return torch.as_tensor(numbers, device="cpu").numpy()
