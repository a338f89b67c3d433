"""The README's Python example runs as it stands."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from mrl.models import download
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import save_released
from mrl.models.registry import REGISTRY

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(released, tiny_config, tmp_path, monkeypatch):
    section = README.partition("## The encoder in Python")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRL_HOME", str(tmp_path / "downloads"))
    for number, name in enumerate(("a.wav", "b.wav", "c.flac")):
        soundfile.write(name, np.random.default_rng(number).uniform(-0.3, 0.3, 9000), 16_000)
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 192), [64, 128, 192])
    Path("checkpoints").mkdir()
    content = {
        "format": FORMAT, "version": VERSION, "config": {}, "model_config": tiny_config,
        "dims": [64, 128, 192], "encoder": encoder.state_dict(), "lists": {},
    }  # fmt: skip
    torch.save(content, "checkpoints/best.pt")
    save_released(released, tiny_config, "checkpoints/pretrained/b2-vox2-ft_lm.pt")
    name = "redimnet-b2-vox2-ft_lm"
    save_released(released, tiny_config, f"downloads/{name}.pt")
    # The size and SHA-256 of the released file are known, and a tiny one stands in its place.
    stand_in = replace(REGISTRY[name], size_bytes=None, sha256=None)
    monkeypatch.setattr(download, "REGISTRY", {name: stand_in})

    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["small"].shape == (64,)
    assert names["many"].shape == (3, 128)
    assert names["whole"].shape == (192,)
    assert -1 <= names["score"] < 1
    torch.testing.assert_close(names["scores"].diagonal(), torch.ones(3))
    assert names["released"].dims == (24,)
