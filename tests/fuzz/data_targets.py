"""Damaged trial lists, enrolment maps, manifests and packed corpora."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

from mrl.data.corpus import scan
from mrl.data.manifest import manifest_path
from mrl.data.trials import check_audio_exists, read_trials
from mrl.errors import MRLError
from mrl.packed import TABLE
from mrl.shards import finished_shard, shard_path
from tests.data.packing_material import packed, plant_audio
from tests.fuzz.archive_damage import checksums_hold, mutated_npz
from tests.fuzz.byte_damage import mutated_bytes
from tests.fuzz.campaign import Input, Target

LABELS = [("1", "0"), ("target", "nontarget"), ("tgt", "imp")]


def trial_lists(folder: Path) -> Target:
    """A list in one of the two orders, damaged but for one in twenty."""
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


def enrolment_maps(folder: Path) -> Target:
    """A damaged map beside a good list that needs it."""
    root, names = _speech(folder / "wav")
    list_path, path = folder / "list.txt", folder / "tried.map"
    models = {
        f"m{speaker}": [name for name in names if _speaker(name) == f"id{speaker}"] for speaker in range(4)
    }
    trials = [
        f"{m} {name} {'target' if name in models[m] else 'nontarget'}" for m in models for name in names
    ]
    list_path.write_text("\n".join(trials))
    good = "".join(f"{model} {' '.join(utterances)}\n" for model, utterances in models.items()).encode()

    def target(rng: random.Random) -> Input:
        content = mutated_bytes(rng, good)

        def run() -> None:
            path.write_bytes(content)
            check_audio_exists(read_trials(list_path, root, enrolment_map=path))

        return Input(run, content, ("tried.map", "trial list list", "list.txt"), needs_line=True)

    return target


def _speech(folder: Path) -> tuple[Path, list[str]]:
    """Files that are called like audio, of four speakers; nothing reads them."""
    names = [
        f"id{speaker}/s{session}/{take}.wav" for speaker in range(4) for session in (0, 1) for take in (0, 1)
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder, names


def _speaker(name: str) -> str:
    return name.split("/")[0]


def _list_of(rng: random.Random, names: list[str]) -> bytes:
    """A small good list, in one of the two orders."""
    words = rng.choice(LABELS)
    lines = []
    for _ in range(rng.randint(2, 20)):
        one, other = rng.sample(names, 2)
        label = words[_speaker(one) != _speaker(other)]
        lines.append(f"{label} {one} {other}" if words[0] == "1" else f"{one} {other} {label}")
    return ("\n".join(lines) + "\n").encode()


def manifests(folder: Path) -> Target:
    """A damaged manifest; the list of files may differ only where the archive's checksums still hold."""
    root, _ = _speech(folder / "speech")
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            os.utime(path, (0, 0))  # settled: the manifest is kept
    kept = manifest_path(folder / "cache", root)
    expected = scan(root, manifest_dir=kept.parent).fingerprint()
    good = kept.read_bytes()

    def target(rng: random.Random) -> Input:
        content = mutated_npz(rng, good)

        def run() -> None:
            kept.write_bytes(content)
            corpus = scan(root, manifest_dir=kept.parent)
            for item in range(len(corpus)):
                corpus.path(item)
                corpus.session_of(item)
            assert corpus.fingerprint() == expected or checksums_hold(content)

        return Input(run, content, (str(root), kept.name))

    return target


def packed_corpora(folder: Path) -> Target:
    """A packed corpus in which the table of all shards, or one shard or its own table, is damaged."""
    made = packed(plant_audio(folder / "source", speakers=2), folder / "packed")
    whole, shard = made / TABLE, shard_path(made, 0)
    good = {path: path.read_bytes() for path in (whole, shard, shard.with_suffix(".npz"))}

    def target(rng: random.Random) -> Input:
        path = rng.choice([whole, *good])
        content = mutated_bytes(rng, good[path]) if path == shard else mutated_npz(rng, good[path])

        def run() -> None:
            for one, right in good.items():
                one.write_bytes(content if one == path else right)
            os.utime(whole, ns=(0, rng.randrange(1, 2**60)))  # so that it is not held to be the last one
            finished_shard(made, 0)
            corpus = scan(made, manifest_dir=None)
            for item in range(len(corpus)):
                with contextlib.suppress(MRLError):  # one utterance that cannot be read is another matter
                    corpus.read_crop(item, 1600, 0.5)
                corpus.path(item)

        return Input(run, content, ("corpus.npz", "shard_00000"))

    return target
