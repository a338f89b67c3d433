"""Two processes with the global batch of one learn what one learns, and one of them writes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.conftest import CONFIG

ROOT = Path(__file__).parent.parent.parent
# Neither dropout nor babble, whose draws depend on what a process holds of a batch.
AUGMENTATION = {"noise_probability": 0.5, "room_probability": 0.5, "gain_probability": 0.5}


def configuration(*stages: dict, **changes) -> dict:
    config = copy.deepcopy(CONFIG)
    config |= {"stages": list(stages) or [stage(0), stage(1)], "model": {"pretrained": "released.pt"}}
    config["data"]["held_out_share"] = 0.25
    return {**config, **changes}


def stage(index: int, **changes) -> dict:
    """With SGD: AdamW moves a weight whose gradient is next to nothing by a whole step, whichever way it rounds."""
    rates = dict.fromkeys(CONFIG["stages"][index]["learning_rate"], 1e-2)
    plain = {"optimizer": "sgd", "learning_rate": rates, "augmentation": AUGMENTATION}
    return {**CONFIG["stages"][index], **plain, **changes}


def launch(config: dict, workplace: Path, processes: int, *arguments: str) -> subprocess.CompletedProcess:
    """train.py in ``processes`` processes, as ``torchrun`` starts it."""
    plain = json.loads(json.dumps(config, default=str))  # no aliases
    (workplace / "run.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *torchrun, str(ROOT / "train.py"), "--config", "run.yaml", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def records(kind: str) -> list[dict]:
    lines = Path("logs/metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def outcome(name: str) -> tuple[list[float], list[dict], dict[str, torch.Tensor]]:
    losses = [record[name] for record in records("step")]
    content = read_checkpoint("checkpoints/last.pt")
    return losses, records("epoch"), {**content["encoder"], **content["criterion"]}


PAIRS = {
    "loss": {"type": "supcon"},
    "prefixes": [{"dim": 8}, {"dim": 24}],
}
RUNS = {
    "two stages": configuration(),
    "cache": configuration(stage(0, cache_views=2)),
    "pairs": configuration(
        stage(1, utterances_per_speaker=2, accumulate_steps=1, margin_warmup_epochs=0, epochs=1,
              learning_rate={"backbone": 1e-2, "head": 1e-2}),
        **PAIRS, data={"train": "speech/train", "workers": 0},
    ),
    "progressive": configuration(stage(1, prefix_start={16: 2}, ema_decay=0.9)),
}  # fmt: skip


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["two stages", "cache", slow("pairs"), slow("progressive")])
def test_two_processes_equal_one(workplace, name):
    config = RUNS[name]
    alone = launch(config, workplace, 1)
    assert alone.returncode == 0, alone.stderr
    losses, epochs, weights = outcome("train/loss")
    together = launch(config, workplace, 2)
    assert together.returncode == 0, together.stderr
    assert "2 processes share each batch" in together.stdout
    assert together.stdout.count("best.pt is epoch") == 1  # one speaks
    losses_2, epochs_2, weights_2 = outcome("train/loss")
    assert losses_2 == pytest.approx(losses, rel=2e-4)
    for one, other in zip(epochs, epochs_2, strict=True):
        assert other["mean_eer"] == pytest.approx(one["mean_eer"], abs=0.02)
        assert other.get("held_out/gap", 0) == pytest.approx(one.get("held_out/gap", 0), abs=0.01)
    for key, value in weights.items():
        scale = value.abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(weights_2[key], value, rtol=0, atol=1e-4 * scale + 1e-6, msg=key)


def test_two_processes_go_on_from_what_one_began(workplace):
    config = configuration(*({**CONFIG["stages"][index], "augmentation": AUGMENTATION} for index in (0, 1)))
    assert launch(config, workplace, 1).returncode == 0
    losses, *_ = outcome("train/loss")
    resumed = launch(config, workplace, 2, "--resume", "checkpoints/epoch_003.pt")
    assert resumed.returncode == 0, resumed.stderr
    assert outcome("train/loss")[0] == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (configuration(stage(0, batch_size=9)), "batch_size 9 is not a multiple of 2 processes"),
        slow(configuration(stage(1, batch_size=6)), "not a multiple of 2 processes times accumulate_steps 2"),
        slow(
            configuration(stage(0, norm_statistics="batch")), "norm_statistics: batch would be those of each"
        ),
        (configuration(data={"train": "nowhere"}), "data.train: nowhere does not exist"),
    ],
)
def test_a_users_mistake_ends_all_of_them(workplace, config, message):
    result = launch(config, workplace, 2)
    assert result.returncode != 0
    assert message in result.stderr
    assert 'Traceback (most recent call last):\n  File "' + str(ROOT / "train.py") not in result.stderr
