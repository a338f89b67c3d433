"""A short run against its stored loss curve: a change of the numbers is noticed, wherever it comes from.

After a change that is meant to alter them: MRL_REWRITE_REFERENCE=1 uv run pytest tests/integration/test_loss_curve.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent / "reference" / "loss_curve.json"
KEYS = ("train/loss", "train/loss_8", "train/gradient_norm", "train/margin", "train/learning_rate_classifier")


def test_the_loss_curve_is_the_stored_one(run, workplace):
    assert run() == 0
    lines = (workplace / "logs/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    curve = {key: [record[key] for record in steps] for key in KEYS}
    if os.environ.get("MRL_REWRITE_REFERENCE"):
        REFERENCE.parent.mkdir(exist_ok=True)
        rounded = {key: [float(f"{value:.6g}") for value in values] for key, values in curve.items()}
        REFERENCE.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
        pytest.skip(f"{REFERENCE} rewritten")
    stored = json.loads(REFERENCE.read_text(encoding="utf-8"))
    for key, values in curve.items():
        # Other processors round otherwise, and sixteen updates spread it.
        assert values == pytest.approx(stored[key], rel=0.02), key
