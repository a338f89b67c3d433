"""Damaged, hostile and old checkpoints, full disks, and two runs in one folder."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import train
from mrl.models.checkpoint_format import read_checkpoint
from tests.integration.conftest import CONFIG
from tests.integration.lives import held_by_another, same_checkpoints
from tests.integration.test_run import numbers, prefer_epoch


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    """In the middle of the largest tensor, where torch itself would not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_program(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def in_place(path: Path) -> Path:
    """The file with an inode of its own, so that no other name of it is damaged too."""
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    copy.replace(path)
    return path


@pytest.mark.parametrize("damage", [halve, flip_a_bit, empty, of_another_program, a_folder, Path.unlink])
@pytest.mark.parametrize("source", ["auto", "checkpoints/last.pt"])
def test_in_place_of_a_damaged_last_file_the_one_before_is_used(run, workplace, capsys, damage, source):
    """And the run comes to the end that it would have come to."""
    assert run() == 0
    straight, uninterrupted = workplace / "straight", numbers(workplace / "logs")
    shutil.copytree(workplace / "checkpoints", straight)
    for number in (3, 4):
        (workplace / f"checkpoints/epoch_{number:03d}.pt").unlink()
    damage(in_place(workplace / "checkpoints/last.pt"))
    capsys.readouterr()
    assert run("--resume", source) == 0
    said = capsys.readouterr().out
    assert "checkpoints/last.pt: " in said
    assert "going on from checkpoints/previous.pt instead" in said
    assert "resumed from checkpoints/previous.pt: 3 epochs done" in said
    (straight / "epoch_003.pt").unlink()
    same_checkpoints(straight, workplace / "checkpoints")
    assert numbers(workplace / "logs") == uninterrupted


def test_the_newest_that_can_be_read_is_used(run, workplace, capsys):
    assert run() == 0
    for name in ("last.pt", "previous.pt", "epoch_004.pt", "epoch_003.pt"):
        halve(in_place(workplace / "checkpoints" / name))
    assert run("--resume", "auto") == 0
    assert "going on from checkpoints/epoch_002.pt instead" in capsys.readouterr().out


def test_nothing_is_begun_anew_where_nothing_can_be_read(run, workplace, capsys):
    assert run() == 0
    for path in (workplace / "checkpoints").glob("*.pt"):
        halve(in_place(path))
    before = {path: path.read_bytes() for path in (workplace / "checkpoints").glob("*.pt")}
    assert run("--resume", "auto") == 2
    assert "no other checkpoint in checkpoints can be read either" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (workplace / "checkpoints").glob("*.pt")} == before


def test_another_file_that_was_asked_for_by_name_is_not_replaced(run, workplace, capsys):
    assert run() == 0
    halve(in_place(workplace / "checkpoints/best.pt"))
    assert run("--resume", "checkpoints/best.pt") == 2
    assert "checkpoints/best.pt: " in capsys.readouterr().err


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_checkpoint_is_refused_and_not_run(run, workplace, capsys, save):
    assert run(stages=[]) == 0
    content = read_checkpoint("checkpoints/last.pt")
    for path in (workplace / "checkpoints").glob("*.pt"):
        path.unlink()
    save({**content, "speakers": Bomb()}, workplace / "checkpoints/last.pt")
    assert run("--resume", "auto", stages=[]) == 2
    assert not (workplace / "exploded").exists()
    assert "checkpoints/last.pt: " in capsys.readouterr().err


def test_a_checkpoint_of_version_2_is_gone_on_from(run, workplace, capsys):
    """It stands at the end of an epoch, and knows nothing of steps within one, nor of what was skipped."""
    assert run() == 0
    straight = workplace / "straight"
    shutil.copytree(workplace / "checkpoints", straight)
    shutil.rmtree(workplace / "checkpoints")
    content = read_checkpoint(straight / "epoch_002.pt")
    content["version"] = 2
    for name in ("epoch_step", "skipped", "overflowed"):
        del content["state"][name]
    del content["config"]["checkpoints"]["every_minutes"]
    torch.save(content, "old.pt")
    assert run("--resume", "old.pt") == 0
    for name in ("epoch_001.pt", "epoch_002.pt", "stage_warm_start.pt", "best.pt"):
        (straight / name).unlink()
    (workplace / "checkpoints/best.pt").unlink()  # made of the weights alone
    same_checkpoints(straight, workplace / "checkpoints")
    torch.save({**content, "version": 1}, "older.pt")
    assert run("--resume", "older.pt") == 2
    assert "older.pt: written in format version 1, this version reads 3 and 2" in capsys.readouterr().err


@pytest.mark.parametrize("version", [None, "3", [3], 2.5, True])
def test_an_odd_version_is_refused(run, version, capsys):
    assert run(stages=[]) == 0
    content = read_checkpoint("checkpoints/last.pt")
    torch.save({**content, "version": version}, "odd.pt")
    assert run("--resume", "odd.pt", stages=[]) == 2
    assert "odd.pt: written in format version" in capsys.readouterr().err


def test_keeping_few_checkpoints_never_deletes_the_best(run, workplace):
    """Epoch 0 is the best of this run, and the file of no numbered epoch."""
    assert run(checkpoints={"keep_last": 1}) == 0
    names = sorted(path.name for path in (workplace / "checkpoints").glob("epoch_*.pt"))
    assert names == ["epoch_004.pt"]
    best = read_checkpoint("checkpoints/best.pt")
    assert best["state"]["epoch"] == read_checkpoint("checkpoints/last.pt")["best"]["epoch"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB, which holds some checkpoints of the small run and not all."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_files_and_the_run_alive(run, workplace, capsys, small_disk):
    """What fits is written; what does not is said, and the run goes on, and can be taken up where there is room."""
    filler = small_disk / "filler"
    assert run(stages=[], checkpoints={"directory": str(small_disk / "a")}) == 0
    size = (small_disk / "a/last.pt").stat().st_size
    shutil.rmtree(small_disk / "a")
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - int(3.4 * size)))
    assert run(checkpoints={"directory": str(small_disk / "b"), "every_minutes": 1e-9}) in (0, 2)
    said = capsys.readouterr()
    assert "could not be written" in said.out
    assert "the files written before are intact" in said.out
    assert read_checkpoint(small_disk / "b/last.pt")
    assert not [path for path in (small_disk / "b").iterdir() if path.suffix == ".tmp"]
    filler.unlink()
    assert run("--resume", "auto", checkpoints={"directory": str(small_disk / "b"), "keep_last": 1}) == 0
    assert read_checkpoint(small_disk / "b/best.pt")


def test_a_limit_on_file_sizes_is_a_failed_save(workplace):
    """The other way in which a write stops short, in a process of its own since it cannot be undone."""
    (workplace / "run.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    process = multiprocessing.get_context("spawn").Process(target=_limited, args=(str(workplace),))
    process.start()
    process.join(120)
    assert process.exitcode == 2  # at its end: best.pt cannot be written even then
    said = (workplace / "said.txt").read_text()
    assert "could not be written" in said
    assert "the best weights could not be written" in said
    assert "Traceback" not in said
    assert not list((workplace / "checkpoints").glob("*.pt"))


def _limited(folder: str) -> None:
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    raise SystemExit(train.main(["--config", "run.yaml"]))


@pytest.mark.parametrize("shared", ["checkpoints", "logs"])
def test_two_runs_do_not_share_a_folder(run, workplace, capsys, shared):
    assert run(stages=[]) == 0
    files = [path for path in (workplace / shared).rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    with held_by_another(workplace / shared):
        assert run(stages=[]) == 2
        assert run("--resume", "auto", stages=[]) == 2
    assert f"{shared}: another run is writing here" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files} == before
    assert run("--resume", "auto", stages=[]) == 0


def test_a_run_that_goes_on_from_another_folder_leaves_the_run_that_was_here(run, workplace, capsys):
    """All of it, under another name, and none of it among the files of the run that goes on."""
    assert run() == 0
    elsewhere = workplace / "elsewhere"
    shutil.move(workplace / "checkpoints", elsewhere)
    assert run(stages=[{**CONFIG["stages"][0], "epochs": 3}]) == 0
    here = {path.name: path.read_bytes() for path in (workplace / "checkpoints").glob("*.pt")}
    capsys.readouterr()
    assert run("--resume", str(elsewhere / "epoch_001.pt")) == 0
    assert "are kept in checkpoints/earlier_1" in capsys.readouterr().out
    kept = {path.name: path.read_bytes() for path in (workplace / "checkpoints/earlier_1").iterdir()}
    assert kept == here
    for path in elsewhere.glob("*.pt"):
        if path.name in ("epoch_001.pt", "previous.pt"):
            path.unlink()
    for name in ("previous.pt",):
        (workplace / "checkpoints" / name).unlink()
    same_checkpoints(elsewhere, workplace / "checkpoints")


def test_files_of_the_run_stay_when_it_comes_back_from_another_course(run, workplace):
    assert run() == 0
    before = {path.name: path.read_bytes() for path in (workplace / "checkpoints").glob("*.pt")}
    changed = ["--set", "stages.full.weight_decay=0.05", "--allow-config-change"]
    assert run("--resume", "checkpoints/epoch_003.pt", *changed) == 0
    assert run("--resume", "checkpoints/epoch_003.pt") == 0
    for name in ("epoch_001.pt", "epoch_002.pt", "epoch_003.pt", "stage_warm_start.pt", "stage_head.pt"):
        assert (workplace / "checkpoints" / name).read_bytes() == before[name], name


def test_a_symbolic_link_is_resumed_as_the_file_that_it_leads_to(run, workplace):
    assert run() == 0
    (workplace / "pick.pt").symlink_to("checkpoints/epoch_002.pt")
    there = {"directory": "there"}
    assert run("--resume", "pick.pt", checkpoints=there, logging={"directory": "there_logs"}) == 0
    assert not any(path.is_symlink() for path in (workplace / "there").iterdir())
    assert read_checkpoint("there/last.pt")["state"]["epoch"] == 4


def test_a_disk_without_room_when_the_run_goes_on_is_one_line(run, workplace, monkeypatch, capsys):
    prefer_epoch(1, monkeypatch)
    assert run() == 0
    for name in ("best.pt", "epoch_001.pt"):
        (workplace / "checkpoints" / name).unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        assert run("--resume", "auto") == 2
    assert "checkpoints: the run cannot go on here from checkpoints/last.pt (" in capsys.readouterr().err
    assert run("--resume", "auto") == 0
    assert (workplace / "checkpoints/best.pt").is_file()


def test_a_fresh_run_that_is_cut_off_early_is_not_the_one_before_it(run, workplace, monkeypatch, capsys):
    assert run(stages=[]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("mrl.training.run.warm_start", _die)
        with pytest.raises(ZeroDivisionError):
            run()
    capsys.readouterr()
    assert run("--resume", "auto") == 0
    assert "no checkpoint to go on from yet, the run begins" in capsys.readouterr().out
    assert (workplace / "checkpoints/earlier_1/best.pt").is_file()


def _die(*_, **__):
    raise ZeroDivisionError


def test_a_best_file_made_of_its_weights_alone_stays_however_often_the_run_goes_on(
    run, workplace, monkeypatch
):
    prefer_epoch(1, monkeypatch)
    assert run() == 0
    (workplace / "checkpoints/best.pt").unlink()
    for _ in range(3):
        assert run("--resume", "auto") == 0
    assert "state" not in read_checkpoint("checkpoints/best.pt")
    assert not list(workplace.glob("checkpoints/earlier_*"))


@pytest.mark.parametrize("broken", [[], "text", None, 5])
def test_a_best_file_of_another_kind_is_set_aside(run, workplace, broken):
    assert run() == 0
    content = read_checkpoint("checkpoints/best.pt")
    torch.save({**content, "encoder": broken}, workplace / "checkpoints/best.pt")
    assert run("--resume", "auto") == 0
    assert read_checkpoint("checkpoints/best.pt")["encoder"]
    assert (workplace / "checkpoints/earlier_1/best.pt").is_file()
