"""Options of the released models: the `model_config` of a checkpoint, validated.

They keep their released names. One that is unknown, or asks for something that is not built here, is an
error; one that cannot change the forward pass is accepted and ignored, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from mrl.errors import CheckpointError

Block1dKind = Literal["fc", "conv", "att", "conv+att"]
Block2dKind = Literal["convnext_like", "basic_resnet", "basic_resnet_fwse"]
PoolingKind = Literal["TAP", "TMAP", "TSDP", "TSTP", "ASTP", "MHASTP", "MQMHASTP"]


# Far beyond any model that was released, and so little that even the largest is only refused, never a full memory.
MOST_STAGES = 32
_LIMITS = {
    "bands": (1, 512),
    "channels": (1, 4096),
    "group_divisor": (1, 65_536),
    "out_channels": (1, 65_536),
    "embed_dim": (1, 65_536),
    "hop_length": (40, 4000),  # 2.5 to 250 ms; attention over time takes the square of the frames
}
_MOST_BLOCKS, _MOST_STRIDE, _MOST_KERNELS, _LARGEST_KERNEL = 64, 64, 16, 255
_LARGEST_EXPANSION = 64
_SHOWN = 10


class Options(BaseModel):
    """Frozen options; `IGNORED` maps each option that is dropped to the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    IGNORED: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, options: Any) -> Any:
        if isinstance(options, Mapping):
            return {name: value for name, value in options.items() if name not in cls.IGNORED}
        return options

    @classmethod
    def parse(cls, options: Mapping[str, Any], source: str) -> Self:
        """Validate ``options``; one CheckpointError names ``source`` and every option that cannot be used."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            found = error.errors()
            problems = [_problem(item) for item in found[:_SHOWN]]
            if len(found) > _SHOWN:
                problems.append(f"  - and {len(found) - _SHOWN} more")
            title = f"{source}: its model_config has options that are unknown, missing or not supported:"
            raise CheckpointError("\n".join([title, *problems])) from error


def _problem(item: Any) -> str:
    place = ".".join(map(str, item["loc"]))
    shown = place if place.isprintable() else repr(place)
    return f"  - {shown:.80}: {item['msg']:.200} (found {item['input']!r:.100})"


_AUGMENTATION = "augmentation in the authors' training; does nothing in the released forward pass"


class SpecOptions(Options):
    """`spec_params`: the front end."""

    IGNORED = {
        "do_spec_aug": _AUGMENTATION,
        "num_apply_spec_aug": _AUGMENTATION,
        "freq_start_bin": _AUGMENTATION,
        "freq_mask_width": _AUGMENTATION,
        "time_mask_width": _AUGMENTATION,
    }
    norm_signal: bool = False  # bring each utterance to zero mean and unit deviation
    do_preemph: bool = True  # pre-emphasis 0.97
    # The front ends are written for these values, which no released model changes.
    sample_rate: Literal[16000] = 16000
    n_fft: Literal[512] = 512
    win_length: Literal[400] = 400
    f_min: Literal[20] = 20
    f_max: Literal[7600] = 7600
    spec_norm: Literal["mn"] = "mn"


class ReleasedOptions(Options):
    """What the families have in common; the defaults are those of the authors' classes."""

    bands: PositiveInt = Field(default=72, alias="F")  # mel bands
    channels: PositiveInt = Field(default=16, alias="C")  # channels of the stem
    block_1d_type: Block1dKind
    block_2d_type: Block2dKind
    group_divisor: PositiveInt | None  # channels per convolution group; None: one dense group
    out_channels: PositiveInt | None = None  # channels before the pooling; None: C * F, without a layer
    embed_dim: PositiveInt = 192
    hop_length: PositiveInt = 160  # samples per mel frame
    pooling_func: PoolingKind = "ASTP"
    feat_type: Literal["pt", "pt_mel", "tf", "tf_mel"] = "pt"
    global_context_att: bool  # ASTP's attention also sees the mean and deviation of the utterance
    emb_bn: bool = False  # BatchNorm after the embedding layer
    spec_params: SpecOptions = SpecOptions()

    @model_validator(mode="after")
    def _of_this_world(self) -> Self:
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                alias = type(self).model_fields[name].alias or name
                raise ValueError(f"{alias} is {value!r:.80}, expected {least} to {most}")
        return self


@dataclass(frozen=True)
class StageOptions:
    """One entry of `stages_setup`: [stride, blocks, conv_exp, kernel_sizes, att_block_red]."""

    band_stride: int  # frequency rows that become one; the channels grow by as much
    frame_stride: int  # frames that become one, on top of the earlier stages; 1 in ReDimNet
    blocks: int  # number of 2-D blocks
    expansion: float  # width of the 2-D blocks, over the channels of the stage
    kernel_sizes: tuple[tuple[int, int], ...]  # [frequency, time] of the parallel convolutions of a 2-D block
    reduction: int | None  # the 1-D block works on C * F // reduction channels; None: no 1-D block


def parse_stage(raw: Any, family: Literal["ReDimNet", "ReDimNet2"]) -> StageOptions:
    """One entry of `stages_setup`; a ValueError says what is wrong with it."""
    if not isinstance(raw, list | tuple) or len(raw) != 5:
        raise ValueError("a stage is [stride, blocks, conv_exp, kernel_sizes, att_block_red]")
    stride, blocks, expansion, kernel_sizes, reduction = raw
    if type(blocks) is not int or not 0 <= blocks <= _MOST_BLOCKS:
        raise ValueError(f"the number of blocks is an integer from 0 to {_MOST_BLOCKS}, not {blocks!r:.80}")
    if (
        isinstance(expansion, bool)
        or not isinstance(expansion, int | float)
        or not 0 < expansion <= _LARGEST_EXPANSION
    ):
        raise ValueError(
            f"conv_exp is a positive number, at most {_LARGEST_EXPANSION}, not {expansion!r:.80}"
        )
    if reduction is not None and (type(reduction) is not int or reduction < 1):
        raise ValueError(f"att_block_red is null or a positive integer, not {reduction!r:.80}")
    if family == "ReDimNet":
        if type(stride) is not int or stride not in (1, 2, 3):
            raise ValueError(f"the stride of a ReDimNet stage is 1, 2 or 3, not {stride!r:.80}")
        # The authors' ReDimNet never reads kernel_sizes: its 2-D blocks are 3x3 whatever stands there.
        return StageOptions(stride, 1, blocks, expansion, ((3, 3),), reduction)
    band_stride, frame_stride = _positive_pair(stride, "the stride of a ReDimNet2 stage", _MOST_STRIDE)
    return StageOptions(band_stride, frame_stride, blocks, expansion, _kernel_sizes(kernel_sizes), reduction)


def _kernel_sizes(raw: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(raw, list | tuple) or not 1 <= len(raw) <= _MOST_KERNELS:
        raise ValueError(
            f"kernel_sizes is a list of 1 to {_MOST_KERNELS} pairs [frequency, time], not {raw!r:.80}"
        )
    sizes = tuple(_positive_pair(size, "a kernel size", _LARGEST_KERNEL) for size in raw)
    if any(n % 2 == 0 for size in sizes for n in size):
        raise ValueError(f"kernel sizes are odd, not {raw!r:.80}")
    return sizes


def _positive_pair(raw: Any, what: str, most: int) -> tuple[int, int]:
    is_pair = isinstance(raw, list | tuple) and len(raw) == 2
    if not is_pair or any(type(n) is not int or not 1 <= n <= most for n in raw):
        raise ValueError(f"{what} is a pair [frequency, time] of integers from 1 to {most}, not {raw!r:.80}")
    return raw[0], raw[1]
