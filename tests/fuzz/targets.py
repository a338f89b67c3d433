"""What is attacked: each target makes damaged inputs from good ones, and reads them as train.py and evaluate.py do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import evaluate
import train
from mrl.config_file import config_from_dict, config_to_dict, load_config, load_environment
from mrl.data.corpus import scan
from mrl.data.manifest import manifest_path
from mrl.data.trials import check_audio_exists, read_trials
from mrl.errors import MRLError
from mrl.evaluation.bundle import read_cohort
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.decision_bundle import read_bundle
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.load_encoder import load_encoder
from mrl.models.pretrained import build_released
from mrl.packed import TABLE
from mrl.shards import finished_shard, shard_path
from mrl.training.resume import resume_from
from tests.conftest import TINY
from tests.data.packing_material import packed, plant_audio
from tests.fuzz.campaign import Input
from tests.fuzz.mutation import (
    CHUNKS,
    VALUES,
    archive_of,
    mutated_archive,
    mutated_arrays,
    mutated_bytes,
    mutated_tree,
    mutated_zip_headers,
)

ROOT = Path(__file__).parents[2]
RECIPES = [ROOT / "config.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]
SHA = "0" * 64

Target = Callable[[random.Random], Input]

SHARES = {  # of the inputs, by target
    **{
        "configs": 20,
        "overrides": 15,
        "trial_lists": 20,
        "enrolment_maps": 8,
        "manifests": 6,
        "packed_corpora": 5,
    },
    **{
        "run_checkpoints": 9,
        "released_files": 6,
        "decision_bundles": 5,
        "environments": 3,
        "command_lines": 3,
    },
}


def targets(folder: Path) -> dict[str, Target]:
    """Every target by name; their material lies in ``folder``, which is empty."""
    makers = (
        *(_configs, _overrides, _trial_lists, _enrolment_maps, _manifests, _packed_corpora, _run_checkpoints),
        *(_released_files, _decision_bundles, _environments, _command_lines),
    )
    made = {}
    for maker in makers:
        name = maker.__name__.removeprefix("_")
        (folder / name).mkdir()
        made[name] = maker(folder / name)
    return made


def _configs(folder: Path) -> Target:
    (folder / "configs").mkdir()
    recipes = [path.read_bytes() for path in RECIPES]
    (folder / "config.yaml").write_bytes(recipes[0])
    path = folder / "configs" / "tried.yaml"
    (folder / "configs" / "cycle.yaml").write_text("extends: tried.yaml\n")

    def target(rng: random.Random) -> Input:
        content = rng.choice(recipes)
        kind = rng.randrange(5)
        if kind < 2:
            content = mutated_bytes(rng, content)
        elif kind < 4:
            content = _dumped(rng, mutated_tree(rng, yaml.safe_load(content)))
        else:
            base = rng.choice(
                ["tried.yaml", "cycle.yaml", ".", "", "no.yaml", "../config.yaml", "a\0b", [], 3, "x" * 300]
            )
            tree = mutated_tree(rng, {**yaml.safe_load(content), "extends": base})
            content = _dumped(rng, tree)

        def run() -> object:
            path.write_bytes(content)
            return config_to_dict(load_config(path))

        return Input(run, content, ("tried.yaml", "config.yaml", "cycle.yaml"))

    return target


def _dumped(rng: random.Random, tree: Any) -> bytes:
    """YAML of ``tree``, now and then with an anchor and aliases, or damaged once more."""
    dumper: Any = yaml.Dumper if rng.random() < 0.1 else yaml.SafeDumper
    try:
        text = yaml.dump(tree, Dumper=dumper, allow_unicode=rng.random() < 0.5, default_flow_style=None)
    except (yaml.YAMLError, RecursionError, ValueError):  # which the damage can lead to: no YAML says it
        text = repr(tree)[:10_000]
    content = text.encode("utf-8", "surrogatepass")
    return mutated_bytes(rng, content) if rng.random() < 0.2 else content


def _overrides(folder: Path) -> Target:
    path = folder / "run.yaml"
    path.write_bytes(RECIPES[0].read_bytes())
    keys = [
        *(
            "seed",
            "stages.head.epochs",
            "stages.0.batch_size",
            "stages",
            "prefixes.0.dim",
            "prefixes",
            "model.pretrained",
        ),
        *(
            "data.train",
            "data.train.0.path",
            "validation.lists.vox1-o.root",
            "loss",
            "loss.type",
            "runtime",
            "logging.wandb",
        ),
        *(
            "stages.head.augmentation.noise_snr_db",
            "checkpoints.select_by",
            "evaluation.p_targets",
            "demo",
            "extends",
            "",
        ),
        *(
            "stages.99.epochs",
            "stages.x.epochs",
            ".",
            "..",
            "a" * 300,
            "a." * 3000,
            "seed.x",
            "stages.head.prefix_start.64",
        ),
        "stages." + "9" * 5000,
    ]

    def target(rng: random.Random) -> Input:
        texts = []
        for _ in range(rng.randint(1, 3)):
            value = json.dumps(rng.choice(VALUES)) if rng.random() < 0.5 else str(rng.choice(VALUES))
            text = f"{rng.choice(keys)}={value}"
            if rng.random() < 0.3:
                text = mutated_bytes(rng, text.encode("utf-8", "surrogatepass")).decode(
                    "utf-8", "surrogateescape"
                )
            texts.append(text)
        saved = "\n".join(texts).encode("utf-8", "surrogatepass")
        return Input(lambda: load_config(path, texts), saved, ("--set", "run.yaml"))

    return target


def _speech(folder: Path) -> tuple[Path, list[str]]:
    """Files that are called like audio; nothing reads them."""
    names = [
        f"id{speaker}/s{session}/{take}.wav"
        for speaker in range(4)
        for session in range(2)
        for take in range(2)
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder, names


def _trial_lists(folder: Path) -> Target:
    root, names = _speech(folder / "wav")
    path = folder / "tried.txt"

    def target(rng: random.Random) -> Input:
        content = _list_of(rng, names)
        if rng.random() < 0.95:
            content = mutated_bytes(rng, content)

        def run() -> None:
            path.write_bytes(content)
            check_audio_exists(read_trials(path, root))

        return Input(run, content, ("tried.txt", "trial list tried"), needs_line=True)

    return target


def _list_of(rng: random.Random, names: list[str]) -> bytes:
    """A small good list, in one of the two orders."""
    words = rng.choice([("1", "0"), ("target", "nontarget"), ("tgt", "imp")])
    lines = []
    for _ in range(rng.randint(2, 20)):
        one, other = rng.sample(names, 2)
        label = words[one.split("/")[0] != other.split("/")[0]]
        lines.append(f"{label} {one} {other}" if words[0] == "1" else f"{one} {other} {label}")
    return ("\n".join(lines) + "\n").encode()


def _enrolment_maps(folder: Path) -> Target:
    root, names = _speech(folder / "wav")
    list_path, path = folder / "list.txt", folder / "tried.map"
    models = {
        f"m{speaker}": [name for name in names if name.startswith(f"id{speaker}/")] for speaker in range(4)
    }
    trials = [
        f"{m} {name} {'target' if name in models[m] else 'nontarget'}" for m in models for name in names
    ]
    good = "".join(f"{model} {' '.join(utterances)}\n" for model, utterances in models.items()).encode()
    list_path.write_text("\n".join(trials))

    def target(rng: random.Random) -> Input:
        content = mutated_bytes(rng, good)

        def run() -> None:
            path.write_bytes(content)
            check_audio_exists(read_trials(list_path, root, enrolment_map=path))

        return Input(run, content, ("tried.map", "trial list list", "list.txt"), needs_line=True)

    return target


def _damaged_npz(rng: random.Random, good: bytes) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return mutated_bytes(rng, good)
    if kind == 1:
        return mutated_archive(rng, good)
    if kind == 2:
        return mutated_zip_headers(rng, good)
    with np.load(io.BytesIO(good)) as content:
        arrays = {name: content[name] for name in content.files}
    out = io.BytesIO()
    save = np.savez_compressed if rng.random() < 0.1 else np.savez
    save(out, **mutated_arrays(rng, arrays))  # type: ignore[arg-type]
    return out.getvalue()


def _manifests(folder: Path) -> Target:
    root, _ = _speech(folder / "speech")
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            os.utime(path, (0, 0))  # settled: the manifest is kept
    kept = manifest_path(folder / "cache", root)
    expected = scan(root, manifest_dir=folder / "cache").fingerprint()
    good = kept.read_bytes()

    def target(rng: random.Random) -> Input:
        content = _damaged_npz(rng, good)

        def run() -> None:
            kept.write_bytes(content)
            corpus = scan(root, manifest_dir=kept.parent)
            paths = [str(corpus.path(item)) for item in range(len(corpus))]
            assert all(corpus.session_of(item) is not None for item in range(len(corpus)))
            assert corpus.fingerprint() == expected or len(paths) == len(corpus)

        return Input(run, content, (str(root), kept.name))

    return target


def _packed_corpora(folder: Path) -> Target:
    made = packed(plant_audio(folder / "source", speakers=2), folder / "packed")
    shard, table = shard_path(made, 0), shard_path(made, 0).with_suffix(".npz")
    good = {path: path.read_bytes() for path in (made / TABLE, shard, table)}

    def target(rng: random.Random) -> Input:
        path = rng.choice([made / TABLE, made / TABLE, shard, table])
        content = mutated_bytes(rng, good[path]) if path == shard else _damaged_npz(rng, good[path])

        def run() -> None:
            for one, right in good.items():
                one.write_bytes(content if one == path else right)
            os.utime(
                made / TABLE, ns=(0, rng.randrange(1, 2**60))
            )  # so that it is not held to be the last one
            finished_shard(made, 0)
            corpus = scan(made, manifest_dir=None)
            for item in range(len(corpus)):
                with contextlib.suppress(MRLError):  # one utterance that cannot be read is another matter
                    corpus.read_crop(item, 1600, 0.5)
                corpus.path(item)

        return Input(run, content, ("corpus.npz", "shard_00000"))

    return target


def _saved(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _damaged_checkpoint(rng: random.Random, content: Any, good: bytes) -> bytes:
    kind = rng.randrange(8)
    if kind == 0:
        return mutated_bytes(rng, good)
    if kind == 1:
        return mutated_zip_headers(rng, good)
    if kind <= 3:
        return mutated_archive(rng, good)
    try:
        return _saved(mutated_tree(rng, content))
    except (RecursionError, NotImplementedError, RuntimeError):  # what the damage led to cannot be saved
        return archive_of([("x/data.pkl", rng.choice(CHUNKS))])


def _run_content(config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a run between two stages, as the trainer writes it, in miniature."""
    released = build_released(TINY, seed=1).eval()
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32])
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    record = {
        "epoch": 0,
        "stage": "pretrained",
        "metrics": {"mean_eer": 0.1, "eer/made/8": 0.1},
        "is_best": True,
    }
    state = {
        "reference": 0.1, "stage": 0, "stage_epoch": 0, "epoch": 1, "step": 4, "epoch_step": 0, "stale": 0,
        "history": [record], "recent": [], "unreadable": {"a.wav": "cut short"},
    }  # fmt: skip
    criterion = {"classifier.weight": torch.zeros(8, 32)}
    best = {
        "rank": [0.0, 0.1],
        "epoch": 0,
        "stage": "pretrained",
        "weights": {"encoder": weights, "criterion": criterion},
    }
    return {
        "format": FORMAT, "version": VERSION, "config": config, "model_config": dict(TINY), "dims": [8, 32],
        "encoder": weights, "lists": {"made": SHA}, "criterion": criterion, "stage_state": None, "teacher": None,
        "state": state, "best": best, "speakers": ["a", "b"], "corpus": SHA, "run_id": "0123", "wandb_run_id": None,
    }  # fmt: skip


def _use(path: Path) -> None:
    """Load the encoder and hear something."""
    waveform = np.random.Generator(np.random.Philox(1)).standard_normal(16_000).astype(np.float32) / 10
    embedding = load_encoder(path).embed(waveform)
    assert embedding.shape[0] > 0


def _run_checkpoints(folder: Path) -> Target:
    (folder / "run.yaml").write_bytes(RECIPES[0].read_bytes())
    config = load_config(folder / "run.yaml", ["prefixes=[{dim: 8}, {dim: 32}]"])
    content = _run_content(config_to_dict(config))
    good, path = _saved(content), folder / "tried.pt"

    def target(rng: random.Random) -> Input:
        damaged = _damaged_checkpoint(rng, content, good)
        resumes = rng.random() < 0.6

        def run() -> None:
            path.write_bytes(damaged)
            if resumes:
                resumed = resume_from(path, config, allow_config_change=rng.random() < 0.8)
                config_from_dict(resumed.content["config"], str(path))
            else:
                _use(path)

        return Input(run, damaged, ("tried.pt",))

    return target


def _released_files(folder: Path) -> Target:
    model = build_released(TINY, seed=1).eval()
    content = {
        "model_config": dict(TINY),
        "state_dict": {k: v.clone() for k, v in model.state_dict().items()},
    }
    good, path = _saved(content), folder / "tried.pt"

    def target(rng: random.Random) -> Input:
        if rng.random() < 0.4:  # options alone
            damaged = _saved({**content, "model_config": mutated_tree(rng, content["model_config"], times=2)})
        else:
            damaged = _damaged_checkpoint(rng, content, good)

        def run() -> None:
            path.write_bytes(damaged)
            _use(path)

        return Input(run, damaged, ("tried.pt",))

    return target


def _decision_bundles(folder: Path) -> Target:
    path, cohort = folder / "tried.decisions.json", folder / "tried.cohort.npz"
    out = io.BytesIO()
    np.savez(out, cohort=np.ones((3, 8), np.float32))
    point = {"threshold": 0.25, "false_accepts": 0.01, "misses": 0.2}
    deviations = {
        "target_mean": 0.6,
        "target_deviation": 0.1,
        "nontarget_mean": 0.0,
        "nontarget_deviation": 0.1,
    }
    prefix = {
        "dim": 8, "eer": 0.05, "at_eer": point, "at_min_dcf": [{"p_target": 0.01, "min_dcf": 0.4, **point}],
        "at_false_accept_rates": [{"rate": 0.01, **point}], "statistics": deviations,
        "calibration": {"scale": 20.0, "offset": -8.0},
    }  # fmt: skip
    values = {
        "format": "redimnet-mrl-decisions", "version": 1, "encoder_sha256": SHA,
        "measured_on": {"name": "vox1-o", "sha256": SHA, "num_targets": 100, "num_nontargets": 400},
        "costs": {"miss": 1.0, "false_accept": 1.0}, "prefixes": [prefix, {**prefix, "dim": 32}],
    }  # fmt: skip

    def target(rng: random.Random) -> Input:
        arrays = _damaged_npz(rng, out.getvalue()) if rng.random() < 0.5 else out.getvalue()
        reference = {
            "file": cohort.name,
            "sha256": hashlib.sha256(arrays).hexdigest(),
            "num_speakers": 3,
            "top": 2,
        }
        tree = (
            mutated_tree(rng, {**values, "cohort": reference})
            if rng.random() < 0.6
            else {**values, "cohort": reference}
        )
        text = json.dumps(tree, default=str).encode()
        content = mutated_bytes(rng, text) if rng.random() < 0.4 else text

        def run() -> None:
            path.write_bytes(content)
            cohort.write_bytes(arrays)
            bundle = read_bundle(path, SHA)
            bundle.at(bundle.prefixes[0].dim)
            if bundle.cohort is not None:
                read_cohort(bundle.cohort, folder)

        return Input(
            run,
            content + b"\n--cohort--\n" + arrays,
            ("tried.decisions.json", "tried.cohort.npz", str(folder)),
        )

    return target


def _environments(folder: Path) -> Target:
    path = folder / ".env"
    good = b"WANDB_API_KEY=abc\nexport MRL_HOME='x y'\nOTHER=\"a\\nb\"\n# said\nTHIRD=${OTHER}x\n"

    def target(rng: random.Random) -> Input:
        content = mutated_bytes(rng, good)

        def run() -> None:
            path.write_bytes(content)
            before = dict(os.environ)
            try:
                load_environment(path)
            finally:
                for name in set(os.environ) - set(before):
                    del os.environ[name]

        return Input(run, content, (".env",))

    return target


def _command_lines(folder: Path) -> Target:
    (folder / "run.yaml").write_bytes(RECIPES[0].read_bytes())
    (folder / "bad.pt").write_bytes(b"bad")
    (folder / "folder.pt").mkdir()
    texts = [
        *(
            "",
            " ",
            "-",
            "--",
            "x",
            "-1",
            "0",
            "1",
            "99999999999999999999",
            "9" * 5000,
            "nan",
            "1e9",
            "\udcff",
            "é",
            "\x1b[2J",
        ),
        *(
            str(folder / "run.yaml"),
            str(folder / "bad.pt"),
            str(folder / "folder.pt"),
            str(folder / "no.pt"),
            "x" * 5000,
        ),
        *(
            "redimnet-b9",
            "a=b",
            "=",
            "a.b=",
            "stages=[]",
            "seed=x",
            "stages.0.epochs={",
            "data=null",
            "~nobody/x.pt",
            "/",
        ),
    ]
    flags = {
        train: [
            "--config",
            "--set",
            "--resume",
            "--allow-config-change",
            "--dry-run",
            "--overfit",
            "--nonsense",
            "-h2",
        ],
        evaluate: [
            *(
                "--checkpoint",
                "--trials",
                "--root",
                "--config",
                "--set",
                "--dims",
                "--with",
                "--output",
                "--scores",
            ),
            *("--replace-decisions", "--device", "--workers", "--nonsense"),
        ],
    }
    base = {train: ["--config", str(folder / "run.yaml")], evaluate: ["--checkpoint", str(folder / "bad.pt")]}

    def target(rng: random.Random) -> Input:
        program = rng.choice([train, evaluate])
        arguments = list(base[program]) if rng.random() < 0.7 else []
        for _ in range(rng.randint(1, 4)):
            arguments.append(rng.choice(flags[program]))
            if rng.random() < 0.7:
                arguments.append(rng.choice(texts))

        def run() -> None:
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                code = program.main(arguments)
            said = (
                errors.getvalue().encode("utf-8", "backslashreplace").decode()
            )  # as standard error writes it
            # No data is there, so that nothing can go well.
            assert code == 2, f"exit code {code}"
            assert said.startswith("error: "), said[:300]
            raise MRLError(said.removeprefix("error: "))

        places = ("--", *[".: "] * ("" in arguments), *(repr(text[:80])[1:-1] for text in arguments if text))
        return Input(run, "\0".join(arguments).encode("utf-8", "surrogateescape"), places)

    return target


def clean(folder: Path) -> None:
    """Remove the material."""
    shutil.rmtree(folder, ignore_errors=True)
