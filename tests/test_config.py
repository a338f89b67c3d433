"""Reading of configurations: layers, variables, overrides, and all problems at once with their place."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from mrl.config_file import config_from_dict, config_to_dict, load_config
from mrl.errors import ConfigError

BASE = """
seed: 7
model: {pretrained: weights.pt}
prefixes: [{dim: 16}, {dim: 8, weight: 2.0}]
data: {train: speech}
validation:
  lists: [{name: held-out, hold_out_speakers: 4}]
stages:
  - name: head
    train: [head]
    epochs: 2
    batch_size: 8
    learning_rate: {head: 1.0e-3, classifier: 1e-3}
"""


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_prefixes_are_sorted_with_their_weights(tmp_path):
    config = load_config(write(tmp_path, BASE))
    assert [(prefix.dim, prefix.weight) for prefix in config.prefixes] == [(8, 2.0), (16, 1.0)]
    assert config.stages[0].learning_rate.classifier == 1e-3  # YAML reads 1e-3 as text
    assert [corpus.path for corpus in config.data.train] == [Path("speech")]


def test_the_configuration_is_frozen(tmp_path):
    config = load_config(write(tmp_path, BASE))
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.stages[0].epochs = 1


def test_all_problems_come_at_once_with_file_and_key(tmp_path):
    path = write(
        tmp_path,
        """
        modle: {}
        model: {pretrained: w.pt, dropuot: 0.1, dropout: 3}
        prefixes: []
        data: {train: "${NOT_SET_ANYWHERE}/x"}
        validation: {lists: [{name: a, root: x, hold_out_speakers: 2}]}
        stages: [{name: a, train: [head], epochs: 0, batch_size: 3, learning_rate: {head: .nan}}]
        """,
    )
    text = problems(path, "runtime.device=tpu", "nonsense")
    for expected in [
        "modle: unknown key; did you mean model?",
        "model.dropuot: unknown key; did you mean dropout?",
        "model.dropout: Input should be less than 1 (got 3)",
        "prefixes: the list must have at least 1 in it",
        "data.train: the environment variable NOT_SET_ANYWHERE is not set",
        "validation.lists.a: give either root",
        "stages.a.epochs: Input should be greater than or equal to 1 (got 0)",
        "stages.a.learning_rate.head: Input should be a finite number",
        "--set: runtime.device: Input should be 'auto', 'cpu' or 'cuda' (got 'tpu')",
        "--set nonsense: expected key=value",
    ]:
        assert expected in text
    assert text.count(str(path)) >= 8
    assert "lists: the list must" not in text  # the entry's own problem says it


def test_what_does_not_fit_together_is_said_along_with_wrong_keys(tmp_path):
    text = problems(
        write(tmp_path, BASE),
        "stages.head.wobble=1",
        "loss.type=triplet",
        "seed=x",
        "stages.head.prefix_start={12: 2}",
    )
    for expected in [
        "5 problems",
        "stages.head.wobble: unknown key; docs/configuration.md has the",
        "--set: seed: Input should be a valid integer",
        "run.yaml: stages.head: prefix_start names 12, which is no prefix",
        "run.yaml: stages.head: loss.type triplet needs utterances_per_speaker",
        "run.yaml: stages.head: learning_rate.classifier is set, but loss.type triplet has no classifier",
    ]:
        assert expected in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loss={inter_top_k: 2, margin: 0}", "loss.inter_top_k does nothing where the margin is 0"),
        ("loss={type: am, easy_margin: true}", "easy_margin does nothing with loss.type am"),
        ("loss={type: supcon, subcenters: 2}", "subcenters does nothing with loss.type supcon"),
        ("loss={inter_top_k_penalty: 0.1}", "inter_top_k_penalty does nothing without inter_top_k"),
        ("stages.head.lora={}", "lora does nothing in a stage that trains no backbone"),
        ("stages.head.prefix_start={8: 2, 16: 2}", "prefix_start leaves epoch 1 without any prefix"),
        ("stages.head.average={epochs: 3}", "average.epochs 3 is more than epochs 2"),
        ("stages.head.schedule=plateau", "plateau_patience 2 is not passed in 2 validations"),
        ("stages.head.schedule=cosine_restarts", "cosine_restarts needs restart_epochs"),
        ("stages.head.restart_epochs=1", "restart_epochs is for schedule cosine_restarts"),
        ("stages.head.nesterov=false", "nesterov does nothing with optimizer adamw"),
        ("stages.head.name=pretrained", "cannot be called pretrained"),
        ("stages.head.augmentation={mixup_alpha: 1}", "mixup_alpha does nothing without mixup_probability"),
        ("stages.head.augmentation={ramp_epochs: 1}", "ramp_epochs does nothing without any effect"),
        ("stages.head.augmentation={music_probability: 0.5}", "music_probability needs data.music"),
        ("data.train=[{path: a/x}, {path: b/x}]", "two corpora are called x; give each a name of its own"),
        ("data.train=[{path: a, weight: 1}, {path: b}]", "give a weight to every corpus or to none"),
        ("model.teacher=other.pt", "model.teacher does nothing"),
        (
            "stages.head.teacher_weight=1\nmodel.head_init=random",
            "model.head_init must be rotated or truncated",
        ),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(tmp_path, override, expected):
    assert expected in problems(write(tmp_path, BASE), *override.split("\n"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "stages.head.learning_rate.backbone=1e-5",
            "learning_rate.backbone is set, but train does not list backbone",
        ),
        ("stages.head.train=[head, backbone]", "learning_rate lacks a rate for backbone"),
        ("stages.head.accumulate_steps=3", "batch_size 8 is not a multiple of accumulate_steps 3"),
        ("stages.head.warmup_epochs=5", "warmup_epochs 5 is more than epochs 2"),
        ("stages.head.margin=1.6", "stages.head: a margin on the angle is in radians, below pi/2"),
        ("checkpoints.select_by=eer_99", "expected one of mean_eer, eer_8, eer_16"),
        ("prefixes=[{dim: 8}, {dim: 8}]", "prefixes: dim 8 stands twice"),
        ("validation.lists.held-out.trials=list.txt", "trials needs root"),
        ("stages.nobody.epochs=3", "stages has no entry 'nobody' (it has: head)"),
        ("seed.deeper=3", "seed is a single value and has no keys"),
        ("stages.head.augmentation={gain_db: [3, 1]}", "the first number must not exceed the second"),
        ("model={pretrained: [", "the value is not YAML"),
    ],
)
def test_what_does_not_fit_together_is_said(tmp_path, override, expected):
    assert expected in problems(write(tmp_path, BASE), override)


def test_overrides_by_name_and_index(tmp_path):
    path = write(tmp_path, BASE)
    config = load_config(
        path, ["stages.head.epochs=5", "stages.0.batch_size=4", "loss.margin=0.3", "demo={}"]
    )
    assert (config.stages[0].epochs, config.stages[0].batch_size, config.loss.margin) == (5, 4, 0.3)
    assert config.demo is not None
    assert load_config(path, ["stages=[]"]).stages == ()


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    (tmp_path / "recipes").mkdir()
    path = write(
        tmp_path / "recipes", "extends: ../base.yaml\nloss: {margin: 0.4}\nprefixes: [{dim: 4}]\n", "own.yaml"
    )
    config = load_config(path)
    assert (config.seed, config.loss.margin, config.dims) == (7, 0.4, (4,))
    bad = write(tmp_path / "recipes", "extends: ../base.yaml\nseed: x\n", "bad.yaml")
    assert f"{bad}: seed: Input should be a valid integer" in problems(bad)
    write(tmp_path, BASE.replace("seed: 7", "seed: y"), "base.yaml")
    assert "base.yaml: seed: Input should be a valid integer" in problems(path)


def test_extends_in_a_circle_or_to_nowhere(tmp_path):
    a = write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    assert "leads back" in problems(a)
    assert "there is no file" in problems(write(tmp_path, "extends: no.yaml\n", "c.yaml"))


def test_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECH", "/mnt/speech")
    text = BASE.replace("train: speech", 'train: "${SPEECH}/train"').replace("seed: 7", 'seed: "${SEED:-11}"')
    config = load_config(write(tmp_path, text))
    assert (config.data.train[0].path, config.seed) == (Path("/mnt/speech/train"), 11)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"seed: [", "line 1"),
        (b"seed: 1\nseed: 2\n", "the key 'seed' stands twice"),
        (b"- a\n- b\n", "expected `key: value` lines"),
        (b"a: &a [1]\nb: *a\n", "YAML aliases"),
        (b"seed: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        (b"\xff\xfe\x00", "is not a UTF-8 text file"),
        (b"{1: 2}", "expected `key: value` lines"),
        (b"seed: \x00", "not allowed"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, expected):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert expected in problems(path)
    assert str(path) in problems(path)


def test_a_missing_file(tmp_path):
    assert "No such file" in problems(tmp_path / "none.yaml")
    assert "Is a directory" in problems(tmp_path)


def test_the_stored_form_reads_back(tmp_path):
    config = load_config(write(tmp_path, BASE))
    stored = yaml.safe_load(yaml.safe_dump(config_to_dict(config)))
    assert config_from_dict(stored, "checkpoint") == config
    with pytest.raises(ConfigError, match="checkpoint: nonsense: unknown key"):
        config_from_dict({**stored, "nonsense": 1}, "checkpoint")
