"""Matryoshka (MRL) speaker embeddings from pretrained ReDimNet backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl.models.encoder import SpeakerEncoder
    from mrl.models.load_encoder import load_encoder

__all__ = ["SpeakerEncoder", "load_encoder"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """What `__all__` names, when it is wanted: PyTorch takes seconds, and the command lines parse without it."""
    if name == "SpeakerEncoder":
        from mrl.models.encoder import SpeakerEncoder

        return SpeakerEncoder
    if name == "load_encoder":
        from mrl.models.load_encoder import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
