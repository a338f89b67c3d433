"""Matryoshka (MRL) speaker embeddings from pretrained ReDimNet backbones."""
