"""The weights of a stage in two forms: live, as the optimizer moves them, and exported, as they are scored.

They differ where the stage keeps a moving average or trains low-rank adapters: exported weights are the
averages, with the adapters merged, and fit a plain encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mrl.config import Config, StageConfig
from mrl.loss import class_speeds
from mrl.models.encoder import SpeakerEncoder
from mrl.training.criterion import Criterion
from mrl.training.fitting import load_fitting
from mrl.training.lora import add_adapters, merged_state, remove_adapters
from mrl.training.moving_average import MovingAverage
from mrl.training.run_state import Weights
from mrl.training.stages import enter_stage


class LiveWeights:
    """Enters ``stage`` with the weights that ``encoder`` and ``criterion`` have; :meth:`leave` ends it."""

    def __init__(
        self, config: Config, stage: StageConfig, encoder: SpeakerEncoder, criterion: Criterion
    ) -> None:
        self._encoder = encoder
        self._criterion = criterion
        self._is_adapted = stage.lora is not None
        criterion.loss.use_blocks(class_blocks(config, stage))
        enter_stage(encoder, criterion, stage)
        if stage.lora is not None:
            add_adapters(encoder.backbone, stage.lora, config.seed)
        self._average = None
        if stage.ema_decay is not None:
            self._average = MovingAverage([encoder, criterion], stage.ema_decay)

    def updated(self, applied: Tensor | None = None) -> None:
        """To be called after each update; ``applied`` as in :meth:`MovingAverage.update`."""
        if self._average is not None:
            self._average.update(applied)

    @contextmanager
    def exported(self) -> Iterator[None]:
        """The modules compute with the exported weights meanwhile, and with the live ones again afterwards."""
        if self._average is None:
            yield
        else:
            with self._average.swapped_in():
                yield

    def export(self) -> Weights:
        """A copy of the exported weights, on the CPU, for a plain encoder."""
        with self.exported():
            encoder = merged_state(self._encoder) if self._is_adapted else self._encoder.state_dict()
            return {"encoder": copied(encoder), "criterion": copied(self._criterion.state_dict())}

    def state_dict(self) -> dict[str, Any]:
        """What is needed besides the exported weights to go on."""
        live = None
        if self._is_adapted or self._average is not None:
            modules = {"encoder": self._encoder, "criterion": self._criterion}
            live = {name: copied(module.state_dict()) for name, module in modules.items()}
        average = None if self._average is None else self._average.state_dict()
        return {"is_adapted": self._is_adapted, "live": live, "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError, KeyError or RuntimeError where the state is of another kind of stage."""
        kinds = {"adapters": (state["is_adapted"], self._is_adapted)}
        kinds["a moving average"] = (state["average"] is not None, self._average is not None)
        for name, (has, wants) in kinds.items():
            if has != wants:
                raise ValueError(
                    f"the stage has {name if wants else f'no longer {name}'}, the checkpoint not so"
                )
        if state["live"] is not None:
            load_fitting(self._encoder, state["live"]["encoder"])
            load_fitting(self._criterion, state["live"]["criterion"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def leave(self) -> None:
        """The encoder is plain again, without masks, and with the backbone's weights from before the adapters."""
        self._encoder.backbone.mask.off()
        if self._is_adapted:
            remove_adapters(self._encoder.backbone)


def weights_of(encoder: SpeakerEncoder, criterion: nn.Module) -> Weights:
    """A copy of the weights outside a stage, on the CPU."""
    return {"encoder": copied(encoder.state_dict()), "criterion": copied(criterion.state_dict())}


def load_weights(encoder: SpeakerEncoder, criterion: nn.Module, weights: Weights) -> None:
    """Put exported ``weights`` into a plain encoder and its criterion."""
    encoder.load_state_dict(weights["encoder"])
    criterion.load_state_dict(weights["criterion"])


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of ``state``, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def class_blocks(config: Config, stage: StageConfig) -> list[int]:
    """The blocks of classes that the stage uses: the speakers, then those at each of its own speeds."""
    speeds = class_speeds(config)
    return [0, *(1 + speeds.index(speed) for speed in stage.augmentation.speed_classes)]
