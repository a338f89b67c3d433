"""Matryoshka (MRL) speaker embeddings from pretrained ReDimNet backbones."""

from mrl.models.encoder import SpeakerEncoder
from mrl.models.load_encoder import load_encoder

__all__ = ["SpeakerEncoder", "load_encoder"]
