from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrl import stopping
from mrl.config import AugmentationConfig, DataConfig
from mrl.data import loader as loading_by_workers
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.corpus import Corpus, scan
from mrl.data.epoch_batches import EpochBatches
from mrl.data.loader import BatchLoader, make_loader
from mrl.data.loading import Crop, CropDataset
from mrl.data.sampling import Sampling
from mrl.errors import DataError
from mrl.stopping import Stopped
from tests.data.crops import SAMPLES, assert_same


def test_a_repeat_is_augmented_in_its_own_way(corpus: Corpus) -> None:
    augmenter = Augmenter(AugmentationConfig(gain_probability=1.0), seed=7, banks=ClipBanks())
    keys = [[(3, 5), (3, 5, 1), (3, 5)]]
    (batch,) = make_loader(CropDataset(corpus, SAMPLES, seed=7), keys, 0, False, augmenter)
    assert batch.plan is not None
    first, again, same = augmenter.apply(torch.ones(3, SAMPLES), batch.plan)
    assert torch.equal(first, same)
    assert not torch.equal(first, again)


def test_workers_change_nothing(corpus: Corpus) -> None:
    corpus.path(4).write_bytes(b"damaged")
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    batches = EpochBatches(Sampling(corpus, DataConfig(train=corpus.root), 7), 4)
    alone = make_loader(dataset, batches, workers=0, pin_memory=False)
    together = make_loader(dataset, batches, workers=2, pin_memory=False)
    for epoch, start in ((1, 0), (2, 1), (1, 0)):
        batches.set_epoch(epoch, start)
        one, two = list(alone), list(together)
        assert len(one) == len(alone) == 3 - start
        for mine, theirs in zip(one, two, strict=True):
            assert_same(mine, theirs)
        assert start or sum(len(batch.replaced) for batch in two) == 1


def test_an_epoch_left_early_does_not_leak_into_the_next(corpus: Corpus) -> None:
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    batches = EpochBatches(Sampling(corpus, DataConfig(train=corpus.root), 7), 2)
    loader = make_loader(dataset, batches, workers=2, pin_memory=False)
    batches.set_epoch(1)
    for _ in loader:
        break
    batches.set_epoch(2, start_step=2)
    expected = list(make_loader(dataset, batches, workers=0, pin_memory=False))
    for mine, theirs in zip(loader, expected, strict=True):
        assert_same(mine, theirs)


def _error_of(loader: BatchLoader) -> str:
    """The message alone: the error itself would hold the loader, whose workers end with it."""
    try:
        list(loader)
    except DataError as error:
        return str(error)
    raise AssertionError("no DataError was raised")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_arrives_without_a_traceback_in_its_message(corpus: Corpus, workers: int) -> None:
    for utterance in range(len(corpus)):
        corpus.path(utterance).write_bytes(b"damaged")
    dataset = CropDataset(corpus, SAMPLES, seed=7)
    message = _error_of(make_loader(dataset, [[(0, 0)]], workers, pin_memory=False))
    assert message.startswith(f"{corpus.path(0)}: damaged or cut short")
    assert "\n" not in message


class _AboutTheWorker(CropDataset):
    def __getitem__(self, key: tuple[int, int]) -> Crop:
        return super().__getitem__(key)._replace(speaker=torch.get_num_threads(), utterance=os.getpid())


def test_workers_use_one_thread_and_outlive_the_epoch(corpus: Corpus) -> None:
    loader = make_loader(_AboutTheWorker(corpus, SAMPLES, seed=7), [[(0, 0)]], workers=1, pin_memory=False)
    (first,), (second,) = list(loader), list(loader)
    assert first.speakers.tolist() == [1]
    assert first.utterances.tolist() == second.utterances.tolist() != [os.getpid()]


def test_m4a_is_decoded_in_workers_after_the_main_process_did() -> None:
    if "MRL_SPEECH" not in os.environ:
        pytest.skip("MRL_SPEECH, a folder of real speech, is not set")
    corpus = scan(Path(os.environ["MRL_SPEECH"]) / "train", manifest_dir=None)
    dataset, keys = CropDataset(corpus, SAMPLES, seed=7), [[(1, 0), (1, 300)], [(1, 600), (1, 900)]]
    here = list(make_loader(dataset, keys, workers=0, pin_memory=False))
    for mine, theirs in zip(here, make_loader(dataset, keys, workers=2, pin_memory=False), strict=True):
        assert_same(mine, theirs)


def test_batches_are_planned_and_prepared_where_they_are_read(corpus: Corpus) -> None:
    config = AugmentationConfig(codec_probability=0.5, codecs=("mp3",), speed_probability=0.5)
    augment = Augmenter(config, seed=7, banks=ClipBanks())
    dataset, keys = CropDataset(corpus, augment.source_samples(SAMPLES), seed=7), [[(1, 0), (1, 3), (1, 7)]]
    (plain,) = make_loader(dataset, keys, workers=0, pin_memory=False)
    plan = augment.plan(plain.utterances, plain.speakers, epoch=1, num_samples=plain.waveforms.shape[1])
    assert plan.codec is not None
    for workers in (0, 2):
        (batch,) = make_loader(dataset, keys, workers, pin_memory=False, augmenter=augment)
        assert torch.equal(batch.waveforms, augment.prepare(plain.waveforms, plan))
        augmented = augment.apply(batch.waveforms, batch.plan)
        assert augmented.shape == (3, SAMPLES)
        assert torch.equal(augmented, augment.apply(augment.prepare(plain.waveforms, plan), plan))


Fault = Callable[[int], None]


class _Faulty(CropDataset):
    """``fault`` happens before an utterance is read, in a worker."""

    fault: Fault | None = None

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        if self.fault is not None and multiprocessing.parent_process() is not None:
            self.fault(key[1])
        return super().__getitem__(key)


def faulty(corpus: Corpus, fault: Fault) -> _Faulty:
    dataset = _Faulty(corpus, SAMPLES, seed=7)
    dataset.fault = fault
    return dataset


def once(flag: Path) -> bool:
    """Whether this is the first time, over all processes."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die(utterance: int, *, at: int = 5, number: int = signal.SIGKILL, flag: Path | None = None) -> None:
    if utterance == at and (flag is None or once(flag)):
        faulthandler.disable()
        os.kill(os.getpid(), number)


def hang(utterance: int, *, at: int = 5, flag: Path | None = None) -> None:
    if utterance == at and (flag is None or once(flag)):
        time.sleep(1000)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """For what a loader says; looks at its workers are frequent."""
    monkeypatch.setattr(loading_by_workers, "_LOOK_SECONDS", 0.05)
    return []


PAIRS = [[(0, 2 * pair), (0, 2 * pair + 1)] for pair in range(6)]


def assert_undisturbed(loader: BatchLoader, corpus: Corpus) -> None:
    """The pairs, as they are without workers."""
    expected = make_loader(CropDataset(corpus, SAMPLES, seed=7), PAIRS, 0, pin_memory=False)
    for mine, theirs in zip(loader, expected, strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_batches_after_a_worker_was_killed_are_those_without(
    corpus: Corpus, workers: int, tmp_path: Path, said: list[str]
) -> None:
    config = AugmentationConfig(gain_probability=1.0, noise_probability=0.5, babble_probability=0.5)
    augmenter = Augmenter(config, seed=7, banks=ClipBanks())
    fatal, plain = (
        kind(corpus, augmenter.source_samples(SAMPLES), seed=7) for kind in (_Faulty, CropDataset)
    )
    fatal.fault = partial(die, flag=tmp_path / "killed")
    batches = EpochBatches(Sampling(corpus, DataConfig(train=corpus.root), 7), 2)
    loader = make_loader(fatal, batches, workers, False, augmenter, say=said.append)
    undisturbed = make_loader(plain, batches, 0, False, augmenter)
    for epoch in (1, 2):
        batches.set_epoch(epoch)
        for mine, theirs in zip(loader, undisturbed, strict=True):
            assert_same(mine, theirs)
            assert mine.plan is not None
            assert theirs.plan is not None
            speakers = (augmenter.apply(batch.waveforms, batch.plan) for batch in (mine, theirs))
            assert torch.equal(*speakers)
    (line,) = said
    assert line == (
        f"a data worker died (killed by SIGKILL: out of memory? lower data.workers) at {corpus.path(5)}; "
        "the workers are replaced, and the batch is read again (replacement 1)"
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (partial(die, number=signal.SIGSEGV), "killed by SIGSEGV: its decoder crashed"),
        (lambda _: os._exit(7), "exit code 7"),
    ],
)
def test_how_a_worker_ended_is_said(corpus: Corpus, said: list[str], fault: Fault, words: str) -> None:
    with pytest.raises(DataError, match=rf"a data worker died \({words}\) at "):
        list(make_loader(faulty(corpus, fault), [[(0, 5)]], 1, pin_memory=False, say=said.append))


def test_a_file_that_kills_each_worker_is_named(corpus: Corpus, said: list[str]) -> None:
    loader = make_loader(faulty(corpus, die), PAIRS, 2, pin_memory=False, say=said.append)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert f"at {corpus.path(5)}, and so did 2 before it" in str(caught.value)
    assert str(caught.value).endswith(f"the batch's files: {corpus.path(4)}, {corpus.path(5)}")
    assert len(said) == loading_by_workers.MAX_DEATHS - 1


def test_deaths_at_several_batches_do_not_add_up(corpus: Corpus, tmp_path: Path, said: list[str]) -> None:
    def die_once_at_each(utterance: int) -> None:
        die(utterance, at=utterance, flag=tmp_path / str(utterance // 2))

    assert_undisturbed(
        make_loader(faulty(corpus, die_once_at_each), PAIRS, 1, False, say=said.append), corpus
    )
    assert len(said) == len(PAIRS)
    assert said[-1].endswith("(replacement 6)")


def test_who_gives_no_callback_is_told_on_standard_error(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list(make_loader(faulty(corpus, partial(die, flag=tmp_path / "killed")), [[(0, 5)]], 1, pin_memory=False))
    assert "a data worker died" in capsys.readouterr().err


def test_a_death_while_the_main_process_computes_raises_nothing_there(
    corpus: Corpus, said: list[str]
) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    loader = make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS, 2, pin_memory=False, say=said.append)
    batches = iter(loader)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is handler
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:  # where a handler would raise
        pass
    assert len(list(batches)) == len(PAIRS) - 1
    assert_undisturbed(loader, corpus)
    for worker in multiprocessing.active_children():  # between two iterations
        os.kill(worker.pid or 0, signal.SIGKILL)
    assert_undisturbed(loader, corpus)
    assert said[-1].endswith("(replacement 2)")


def test_workers_that_start_leave_the_random_numbers_of_the_run_alone(
    corpus: Corpus, tmp_path: Path, said: list[str]
) -> None:
    fault = partial(die, flag=tmp_path / "killed")
    state = torch.get_rng_state()
    assert_undisturbed(make_loader(faulty(corpus, fault), PAIRS, 2, False, say=said.append), corpus)
    assert len(said) == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_that_hang_are_replaced_once(corpus: Corpus, tmp_path: Path, said: list[str]) -> None:
    dataset = faulty(corpus, partial(hang, flag=tmp_path / "hung"))
    assert_undisturbed(make_loader(dataset, PAIRS, 2, False, timeout_seconds=0.3, say=said.append), corpus)
    (line,) = said
    assert line.startswith(
        f"a data worker has not answered for 0.3 s at {corpus.path(5)}; the workers are repl"
    )


def test_a_batch_that_hangs_again_ends_the_run_and_names_the_file(
    corpus: Corpus, tmp_path: Path, said: list[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")

    def read_what_nobody_writes(utterance: int) -> None:
        if utterance == 5:
            (tmp_path / "fifo").read_bytes()

    dataset = faulty(corpus, read_what_nobody_writes)
    with pytest.raises(DataError) as caught:
        list(make_loader(dataset, PAIRS, 2, False, timeout_seconds=0.3, say=said.append))
    assert f"for 0.3 s at {corpus.path(5)}, and did not the time before; look at the disk" in str(
        caught.value
    )
    assert str(caught.value).endswith(
        f"worker_timeout_seconds; the batch's files: {corpus.path(4)}, {corpus.path(5)}"
    )
    assert len(said) == 1


def test_a_worker_that_is_stopped_while_it_hands_over_a_batch_counts_as_hung(
    corpus: Corpus, tmp_path: Path, said: list[str]
) -> None:
    """Whoever receives that batch waits for it without a limit."""
    dataset = faulty(corpus, partial(die, number=signal.SIGSTOP, flag=tmp_path / "stopped"))
    assert_undisturbed(make_loader(dataset, PAIRS, 1, False, timeout_seconds=0.3, say=said.append), corpus)
    assert len(said) == 1


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_workers_ignore_what_a_cluster_sends_to_the_whole_job(
    corpus: Corpus, said: list[str], number: int
) -> None:
    dataset = faulty(corpus, lambda _: os.kill(os.getpid(), number))
    assert_undisturbed(make_loader(dataset, PAIRS, 2, pin_memory=False, say=said.append), corpus)
    assert said == []


def test_a_run_that_is_to_end_does_not_wait_for_a_batch_that_hangs(
    corpus: Corpus, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_by_workers, "_STOP_SECONDS", 0.1)
    loader = make_loader(faulty(corpus, hang), [[(0, 5)]], 1, pin_memory=False, say=said.append)
    with stopping.listening(), stopping.deferring():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            list(loader)
    assert multiprocessing.active_children() == []


def test_a_defect_arrives_with_its_traceback(corpus: Corpus, said: list[str]) -> None:
    def break_down(utterance: int) -> None:
        raise ZeroDivisionError(f"at {utterance}")

    loader = make_loader(faulty(corpus, break_down), [[(0, 5)]], 1, pin_memory=False, say=said.append)
    with pytest.raises(RuntimeError, match=r"(?s)in a data worker: .*Traceback.*ZeroDivisionError: at 5"):
        list(loader)
    assert said == []


def test_an_iteration_that_is_given_up_leaves_nothing_running(corpus: Corpus, tmp_path: Path) -> None:
    loader = make_loader(faulty(corpus, partial(hang, flag=tmp_path / "hung")), PAIRS, 2, pin_memory=False)
    for _ in loader:
        assert len(multiprocessing.active_children()) == 2
        break
    started = time.monotonic()
    assert multiprocessing.active_children() == []
    assert_undisturbed(loader, corpus)
    assert len(multiprocessing.active_children()) == 2
    del loader
    assert multiprocessing.active_children() == []
    assert time.monotonic() - started < 4.0  # torch itself waits 5 s for each worker


def test_workers_are_known_to_have_ended_whichever_thread_is_told(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader's own thread may be told by the system, and be slow to note it."""
    here, wait_for = threading.get_ident(), os.waitpid
    told = []

    def slowly(pid: int, options: int) -> tuple[int, int]:
        result = wait_for(pid, options)
        if threading.get_ident() != here and result[0] != 0:
            told.append(pid)
            time.sleep(0.02)
        return result

    monkeypatch.setattr(os, "waitpid", slowly)
    for _ in range(50):
        loader = make_loader(CropDataset(corpus, SAMPLES, seed=7), PAIRS, 2, pin_memory=False)
        list(loader)
        del loader
        assert multiprocessing.active_children() == []
        if len(told) > 2:
            return
    if not told:
        pytest.skip("the system told this thread each time")


class _Large(CropDataset):
    """Its workers spend most of their time on shared memory."""

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        return Crop(torch.zeros(4_000_000), 0, key[1], None)


def test_iterations_that_are_given_up_leave_no_shared_memory(corpus: Corpus) -> None:
    """Torch names each piece for an instant; a worker that is killed then leaves it behind."""
    left = set()
    for _ in range(20):
        for _ in make_loader(_Large(corpus, SAMPLES, 7), PAIRS, 2, pin_memory=False):
            pids = [worker.pid for worker in multiprocessing.active_children()]
            break
        left |= {path for pid in pids for path in Path("/dev/shm").glob(f"torch_{pid}_*")}
    assert left == set()


def test_an_iteration_ends_that_before_it(corpus: Corpus) -> None:
    loader = make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS, 2, pin_memory=False)
    former = iter(loader)
    next(former)
    assert_undisturbed(loader, corpus)
    with pytest.raises(AssertionError, match="another iteration has begun"):
        next(former)
    assert_undisturbed(loader, corpus)


def test_a_fork_of_the_main_process_leaves_the_workers_alone(corpus: Corpus, said: list[str]) -> None:
    loader = make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS, 2, pin_memory=False, say=said.append)
    batches = iter(loader)
    next(batches)
    fork = multiprocessing.get_context("fork").Process(target=loader._end)
    fork.start()
    fork.join()
    assert fork.exitcode == 0
    assert len(list(batches)) == len(PAIRS) - 1
    assert said == []


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [
        (BlockingIOError(11, "unavailable"), DataError, r"started \(.*unavailable\); lower data.workers"),
        (TypeError("cannot pickle it"), RuntimeError, r"started \(cannot pickle it\)$"),
    ],
)
@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_that_no_process_can_be_started_is_said(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, problem: Exception, kind: type[Exception], words: str
) -> None:
    def refuse(_: object) -> None:
        raise problem

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    with pytest.raises(kind, match=words):
        list(make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS, 1, pin_memory=False))


def test_a_batch_without_room_in_shared_memory_is_an_error(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(Tensor, "share_memory_", refuse)
    message = _error_of(make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS, 1, pin_memory=False))
    assert message.startswith("a batch finds no room in shared memory (unable to allocate")
    assert "--shm-size" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_all_tensors_of_a_batch_are_pinned(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    (plain,) = make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS[:1], workers, pin_memory=False)
    (pinned,) = make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS[:1], workers, pin_memory=True)
    for mine, theirs in zip(plain[:3], pinned[:3], strict=True):
        assert torch.equal(mine + 1, theirs)


SCRIPT = """
import multiprocessing, sys, time
from pathlib import Path
from mrl.data.corpus import scan
from mrl.data.loader import make_loader
from mrl.data.loading import CropDataset

class Hanging(CropDataset):
    def __getitem__(self, key):
        if key[1]:
            time.sleep(1000)
        return super().__getitem__(key)

dataset = Hanging(scan(Path(sys.argv[1]), manifest_dir=None), 800, 7)
batches = iter(make_loader(dataset, [[(0, 0)], [(0, 1)]], 3, pin_memory=False))
next(batches)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
"""


def _gone(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
def test_workers_end_with_their_main_process_however_that_ends(corpus: Corpus) -> None:
    """One of them hangs; the others are idle."""
    exited, killed = (
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT + last, str(corpus.root)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(loading_by_workers.__file__).parents[2],
        )
        for last in ("sys.exit(3)", "time.sleep(1000)")
    )
    pids = [main.stdout.readline().split() for main in (exited, killed) if main.stdout is not None]
    assert [len(each) for each in pids] == [3, 3]
    killed.kill()
    assert exited.wait(10) == 3
    until = time.monotonic() + 10.0
    while not all(_gone(pid) for each in pids for pid in each):
        assert time.monotonic() < until, "a worker outlives its main process"
        time.sleep(0.05)
    for main in (exited, killed):
        main.communicate()


def test_about_two_batches_a_worker_are_read_ahead(corpus: Corpus) -> None:
    drawn: list[int] = []

    class Keys:
        def __len__(self) -> int:
            return 20

        def __iter__(self) -> Iterator[list[tuple[int, int]]]:
            for number in range(20):
                drawn.append(number)
                yield [(number, 0)]

    for given, _ in enumerate(
        make_loader(CropDataset(corpus, SAMPLES, 7), Keys(), 2, pin_memory=False), start=1
    ):
        assert len(drawn) == min(20, given + 4 + 1)  # and one for the room that a batch leaves
