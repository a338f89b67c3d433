"""Low-rank adapters (Hu et al., LoRA, arXiv 2106.09685) in a backbone, through the library PEFT.

An adapted layer computes W x + (alpha / rank) B A x, where the pretrained W is frozen and B starts at 0. PEFT puts a
wrapper around each adapted layer; here they are put in, taken out, and merged into weights of a plain backbone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mrl.config import LoraConfig
from mrl.errors import TrainingError
from mrl.models.pooling import ASTP
from mrl.models.temporal import SelfAttention
from mrl.randomness import seed_of

_ADAPTER = "default"
_BASE = ".base_layer."


def require_peft() -> None:
    """Raises TrainingError where the library is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise TrainingError(
            f"stages with lora need the library peft, which cannot be imported ({error}): uv sync --extra lora"
        ) from None


def add_adapters(backbone: nn.Module, lora: LoraConfig, seed: int) -> None:
    """Put fresh adapters into ``backbone``, in place, on its device; only they learn from then on.

    The backbone computes what it did before, as each B is 0; the A depend on ``seed`` and the architecture
    alone. Left out are convolutions with groups or dilation, whose update is not one of low rank that could be
    merged, and the layer of a pooling that is read but not called.

    Raises TrainingError where PEFT is not installed, or where the backbone has no layer of the kind that
    ``lora.layers`` names.
    """
    assert not hasattr(backbone, "peft_config"), "it has adapters already"
    require_peft()
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    names = adapted_layers(backbone, lora.layers)
    if not names:
        raise TrainingError(
            f"lora.layers: {lora.layers} finds no such layer in this backbone; choose another of "
            "attention, linear, all"
        )
    options = PeftConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # declared int, but only divided by the rank
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, names)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "adapters"))  # PEFT draws them on the CPU
        inject_adapter_in_model(options, backbone, _ADAPTER)


def adapted_layers(backbone: nn.Module, layers: str) -> list[str]:
    """Names of the layers that ``lora.layers`` gives adapters."""
    fits = _KINDS[layers]
    unfit = set(_read_not_called(backbone))
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, parent in backbone.named_modules()
        for name, layer in parent.named_children()
        if layer not in unfit and fits(parent, layer)
    ]


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """State of ``module`` as it was before adapters were put in, with the same keys and the adapters merged.

    The module itself is left as it is. Products are computed in float64.
    """
    from peft.tuners.lora import LoraLayer

    state = {
        key.replace(_BASE, "."): value for key, value in module.state_dict().items() if ".lora_" not in key
    }
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            weight = state[f"{name}.weight"]
            state[f"{name}.weight"] = (weight.double() + _update_of(layer).view_as(weight)).to(weight.dtype)
    return state


def remove_adapters(backbone: nn.Module) -> None:
    """Take the adapters out of ``backbone``, in place: its own layers again, with the weights of before."""
    from peft.tuners.lora import LoraLayer

    adapted = [
        (parent, name, layer)
        for parent in backbone.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, LoraLayer)
    ]
    for parent, name, layer in adapted:
        setattr(parent, name, layer.get_base_layer())
    if hasattr(backbone, "peft_config"):
        del backbone.peft_config


def _update_of(layer: Any) -> Tensor:
    """(alpha / rank) B A of an adapted layer, float64 [out, everything else]."""
    # Of a linear layer A is [rank, in] and B [out, rank]; of a convolution A has the kernel, and B is 1x1.
    a, b = (factors[_ADAPTER].weight.detach().double() for factors in (layer.lora_A, layer.lora_B))
    return layer.scaling[_ADAPTER] * (b.flatten(1) @ a.flatten(1))


def _read_not_called(backbone: nn.Module) -> Iterator[nn.Module]:
    """Layers whose weights their parent reads without calling them: an adapter there would do nothing."""
    for module in backbone.modules():
        if isinstance(module, ASTP) and module.global_context:
            yield module.linear1


def _in_attention(parent: nn.Module, layer: nn.Module) -> bool:
    return isinstance(parent, SelfAttention) and isinstance(layer, nn.Linear)


def _is_linear(parent: nn.Module, layer: nn.Module) -> bool:
    """A linear layer, or a 1x1 convolution, which is one at each place."""
    is_pointwise = isinstance(layer, nn.Conv1d | nn.Conv2d) and set(layer.kernel_size) == {1}
    return isinstance(layer, nn.Linear) or (is_pointwise and _is_dense(parent, layer))


def _is_dense(parent: nn.Module, layer: nn.Module) -> bool:
    """A linear layer, or a convolution without groups and dilation."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.groups == 1 and set(layer.dilation) == {1}
    return isinstance(layer, nn.Linear)


_KINDS: dict[str, Callable[[nn.Module, nn.Module], bool]] = {
    "attention": _in_attention,
    "linear": _is_linear,
    "all": _is_dense,
}
