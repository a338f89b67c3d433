"""ReDimNet (arXiv:2407.18223), in the layout of the files released since November 2024.

Each stage sums the outputs of the stem and of all stages before it, views the sum as a 2-D map, trades
frequency rows for channels, runs 2-D blocks, views the result as a sequence and runs a 1-D block along time.
C x F never changes, so that all outputs have one shape and can be summed.

B batch, C channels, F frequency rows, D = C F, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, PositiveInt
from torch import Tensor, nn

from mrl.models.blocks import Block2d, group_count, stem
from mrl.models.layout import StageSum, To1d, To2d
from mrl.models.memory_order import BatchNorm1d, BatchNorm2d, Conv1d, Conv2d
from mrl.models.options import Block1dKind, Block2dKind, ReleasedOptions, StageOptions, parse_stage
from mrl.models.released import Backbone, ReleasedModel
from mrl.models.temporal import TimeContextBlock

Stage = Annotated[StageOptions, BeforeValidator(partial(parse_stage, family="ReDimNet"))]


class ReDimNetOptions(ReleasedOptions):
    """`model_config` of a ReDimNet file."""

    IGNORED: ClassVar[Mapping[str, str]] = {
        "class_dropout": "part of the authors' classifier, which released files do not hold",
        "head_activation": "part of the authors' classifier, which released files do not hold",
        "feat_agg_dropout": "dropout in the authors' training; does nothing in the released forward pass",
        "return_all_outputs": "changes what the authors' forward returns, not the network",
    }
    stages_setup: Annotated[list[Stage], BeforeValidator(list)]
    block_1d_type: Block1dKind = "att"
    block_2d_type: Block2dKind = "convnext_like"
    group_divisor: PositiveInt | None = 4
    global_context_att: bool = False
    num_classes: None = None  # a number adds a classifier, and the model returns its logits
    tf_optimized_arch: Literal[False] = False  # the authors did not publish that class


class ReDimNetBackbone(Backbone):
    """[B, 1, F, T] -> [B, D, T], or [B, out_channels, T]."""

    frame_stride = 1

    def __init__(self, options: ReDimNetOptions) -> None:
        super().__init__()
        width = options.channels * options.bands
        channels, rows = options.channels, options.bands
        self.stem = stem(channels)
        self.stages = len(options.stages_setup)
        for index, stage in enumerate(options.stages_setup):
            if rows % stage.band_stride:
                raise ValueError(f"stages_setup.{index}: {rows} rows cannot be cut by {stage.band_stride}")
            self.add_module(f"stage{index}", build_stage(options, index, channels, rows))
            channels, rows = channels * stage.band_stride, rows // stage.band_stride
        self.fin_wght1d = StageSum(self.stages + 1, width)
        self.mfa: nn.Module = nn.Identity()
        self.out_dim = width
        if options.out_channels is not None:
            self.out_dim = options.out_channels
            self.mfa = nn.Sequential(Conv1d(width, self.out_dim, 1), BatchNorm1d(self.out_dim))

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.stem(x)]
        for index in range(self.stages):
            outputs.append(self.get_submodule(f"stage{index}")(outputs))
        return self.mfa(self.fin_wght1d(outputs))


def build_stage(options: ReDimNetOptions, index: int, channels: int, rows: int) -> nn.Sequential:
    """Stage ``index``: all outputs so far, each [B, D, T], viewed as [B, channels, rows, T] -> [B, D, T]."""
    stage = options.stages_setup[index]
    width = options.channels * options.bands
    stride = stage.band_stride
    expanded = int(stride * channels * stage.expansion)
    layers: list[nn.Module] = [
        StageSum(index + 1, width if index else 1),
        To2d(channels, rows),
        Conv2d(channels, expanded, (stride, 1), stride=(stride, 1)),
    ]
    for _ in range(stage.blocks):
        layers.append(Block2d(options.block_2d_type, expanded, rows // stride, options.group_divisor))
    if stage.expansion != 1:
        layers.append(squeeze(expanded, stride * channels, options.group_divisor))
    layers.append(To1d())
    if stage.reduction is not None:
        layers.append(TimeContextBlock(options.block_1d_type, width, width // stage.reduction))
    return nn.Sequential(*layers)


def squeeze(expanded: int, channels: int, group_divisor: int | None) -> nn.Sequential:
    """From the expanded width of the 2-D blocks back to the channels that keep C F constant."""
    return nn.Sequential(
        Conv2d(expanded, channels, 3, padding=1, groups=group_count(channels, group_divisor)),
        BatchNorm2d(channels, eps=1e-6),
        nn.GELU(),
        Conv2d(channels, channels, 1),
    )


class ReDimNet(ReleasedModel):
    """A ReDimNet with the tensor names of its released files."""

    def __init__(self, model_config: Mapping[str, Any], source: str = "model_config") -> None:
        """Build from ``model_config``.

        Raises:
            CheckpointError: options that are unknown or not supported; names them and ``source``.
            ValueError: sizes that do not fit together.
        """
        options = ReDimNetOptions.parse(model_config, source)
        super().__init__(options, ReDimNetBackbone(options), model_config)
