"""ReDimNet2: ReDimNet whose stages may also join frames, so that late stages run at a lower rate.

A stage takes the full-rate sum, lowers its rate by the product of all time strides so far, runs its 2-D
and 1-D blocks at that rate, and repeats its frames back to the full rate, so that all outputs can be summed.

B batch, C channels, F frequency rows, D = C F, T frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt
from torch import Tensor, nn

from mrl.models.blocks import Block2d, stem
from mrl.models.layout import StageSum, To1d, To2d
from mrl.models.memory_order import BatchNorm2d, Conv1d, Conv2d, GroupNorm, repeat_frames
from mrl.models.options import (
    Block1dKind,
    Block2dKind,
    ReleasedOptions,
    SpecOptions,
    StageOptions,
    parse_stage,
)
from mrl.models.released import Backbone, ReleasedModel
from mrl.models.temporal import TimeContextBlock

logger = logging.getLogger(__name__)

Stage = Annotated[StageOptions, BeforeValidator(partial(parse_stage, family="ReDimNet2"))]


class ReDimNet2Options(ReleasedOptions):
    """`model_config` of a ReDimNet2 file."""

    IGNORED: ClassVar[Mapping[str, str]] = {
        "num_classes": "the authors' class takes it and builds no classifier",
        "feat_agg_dropout": "the authors' class takes it and never reads it",
        "head_activation": "the authors' class takes it and never reads it",
        "return_all_outputs": "changes what the authors' forward returns, not the network",
    }
    channels: PositiveInt = Field(default=24, alias="C")
    stages_setup: Annotated[list[Stage], BeforeValidator(list)]
    block_1d_type: Block1dKind = "conv+att"
    block_2d_type: Block2dKind = "basic_resnet"
    group_divisor: PositiveInt | None = 1
    global_context_att: bool = True
    compress_tconvs: bool = True  # the strided convolutions have as many groups as their channels allow
    return_2d_output: bool = False  # the output layer works on the 2-D map instead of the sequence
    dual_agg: bool = False  # a stage with a 1-D block hands on its 2-D result as well
    agg_gnorm: bool | int | None = False  # GroupNorm of every output: True for C groups, or their number
    # Required, because the published versions of the class disagree on what an absent one means.
    spec_params: SpecOptions
    # Required, because the authors' default raises.
    causal: Literal["none"]
    # No published checkpoint is known to set these, and nothing here has been proven with them.
    spec_in_channels: Literal[1] = 1
    fm_weigthing_type: Literal["NC"] = "NC"
    use_freq_pos_enc: Literal[False] = False
    att_dos: None = None
    pad_right_samples: None = None
    before_pool_offset: None = None

    @property
    def norm_groups(self) -> int:
        """Groups of the GroupNorm of each output; 0 for none."""
        if isinstance(self.agg_gnorm, bool):
            return self.channels if self.agg_gnorm else 0
        return max(0, self.agg_gnorm or 0)


class RepeatFrames(nn.Module):
    """[B, D, T] -> [B, D, T times]: each frame ``times`` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return repeat_frames(x, self.times)


class ReDimNet2Backbone(Backbone):
    """[B, 1, F, T] -> [B, D, T'], or a 2-D map with return_2d_output; T' is T, cut to whole strides."""

    def __init__(self, options: ReDimNet2Options) -> None:
        super().__init__()
        width = options.channels * options.bands
        channels, rows, rate = options.channels, options.bands, 1
        self.stem = stem(channels)
        self.stem_gnorm = output_norm(options)
        self.dual: list[bool] = []  # per stage: does it hand on two outputs
        count = 1  # outputs so far
        for index, stage in enumerate(options.stages_setup):
            if rows % stage.band_stride:
                raise ValueError(f"stages_setup.{index}: {rows} rows cannot be cut by {stage.band_stride}")
            rate *= stage.frame_stride
            maps = map_layers(options, stage, count, channels, rows, rate)
            self.dual.append(options.dual_agg and stage.reduction is not None)
            self._add_stage(options, index, stage, maps, rate)
            channels, rows = channels * stage.band_stride, rows // stage.band_stride
            count += 1 + self.dual[-1]
        self.frame_stride = rate
        self.fin_wght1d = StageSum(count, width)
        self.fin_to2d = To2d(channels, rows) if options.return_2d_output else nn.Identity()
        self.head: nn.Module = nn.Identity()
        self.out_dim = width
        if options.out_channels is not None and options.return_2d_output:
            self.head = Conv2d(channels, options.out_channels, 1)
            self.out_dim = options.out_channels * rows
        elif options.out_channels is not None:
            self.head = Conv1d(width, options.out_channels, 1)
            self.out_dim = options.out_channels

    def _add_stage(
        self, options: ReDimNet2Options, index: int, stage: StageOptions, maps: list[nn.Module], rate: int
    ) -> None:
        width = options.channels * options.bands
        along_time: list[nn.Module] = []
        if stage.reduction is not None:
            along_time.append(TimeContextBlock(options.block_1d_type, width, width // stage.reduction))
        if self.dual[index]:
            self.add_module(f"stage{index}_pre", nn.Sequential(*maps))
            self.add_module(f"stage{index}_1d", along_time[0])
            self.add_module(f"stage{index}_up_2d", nn.Sequential(RepeatFrames(rate), output_norm(options)))
            self.add_module(f"stage{index}_up_1d", nn.Sequential(RepeatFrames(rate), output_norm(options)))
        else:
            layers = [*maps, *along_time, RepeatFrames(rate), output_norm(options)]
            self.add_module(f"stage{index}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[-1] // self.frame_stride * self.frame_stride
        outputs = [self.stem_gnorm(self.stem(x[..., :frames]))]
        for index, dual in enumerate(self.dual):
            if dual:
                maps = self.get_submodule(f"stage{index}_pre")(outputs)
                along_time = self.get_submodule(f"stage{index}_1d")(maps)
                outputs.append(self.get_submodule(f"stage{index}_up_2d")(maps))
                outputs.append(self.get_submodule(f"stage{index}_up_1d")(along_time))
            else:
                outputs.append(self.get_submodule(f"stage{index}")(outputs))
        return self.head(self.fin_to2d(self.fin_wght1d(outputs)))


def map_layers(
    options: ReDimNet2Options, stage: StageOptions, count: int, channels: int, rows: int, rate: int
) -> list[nn.Module]:
    """The 2-D half of a stage: ``count`` outputs, each [B, D, T] -> [B, D, T / rate]."""
    stride = stage.band_stride
    expanded = int(stride * channels * stage.expansion)
    if expanded < 1:
        raise ValueError(f"conv_exp {stage.expansion} leaves no channels of {stride * channels}")
    groups = math.gcd(channels, expanded) if options.compress_tconvs else 1
    layers: list[nn.Module] = [
        StageSum(count, options.channels * options.bands),
        To2d(channels, rows),
        Conv2d(channels, expanded, (stride, rate), stride=(stride, rate), groups=groups),
    ]
    for _ in range(stage.blocks):
        block = Block2d(
            options.block_2d_type, expanded, rows // stride, options.group_divisor, stage.kernel_sizes
        )
        layers.append(block)
    if stage.expansion != 1:
        squeezed = stride * channels
        layers.append(nn.Sequential(Conv2d(expanded, squeezed, 1), BatchNorm2d(squeezed, eps=1e-6)))
    return [*layers, To1d()]


def output_norm(options: ReDimNet2Options) -> nn.Module:
    """GroupNorm over runs of the frequency-major sequence: of C groups, each is F entries, not a channel."""
    if not options.norm_groups:
        return nn.Identity()
    return GroupNorm(options.norm_groups, options.channels * options.bands)


class ReDimNet2(ReleasedModel):
    """A ReDimNet2 with the tensor names of its released files."""

    def __init__(self, model_config: Mapping[str, Any], source: str = "model_config") -> None:
        """Build from ``model_config``.

        Raises:
            CheckpointError: options that are unknown or not supported; names them and ``source``.
            ValueError: sizes that do not fit together.
        """
        options = ReDimNet2Options.parse(model_config, source)
        if not isinstance(options.agg_gnorm, bool) and options.norm_groups not in (0, options.channels):
            logger.warning(
                "%s: agg_gnorm=%d is read as a number of groups, as in the newer code of the authors; "
                "their older code reads it as True (%d groups) and would score differently",
                source,
                options.agg_gnorm,
                options.channels,
            )
        super().__init__(options, ReDimNet2Backbone(options), model_config)
