"""Signals: heard at once, answered where nothing is lost, and never in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrl import stopping
from mrl.stopping import Stopped, deferring, heed, heeding, is_stop_requested, last_words, listening

ROOT = Path(__file__).parent.parent
ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_where_nothing_is_deferred_a_signal_raises(number):
    with listening(), pytest.raises(Stopped) as caught:
        send(number)
    assert caught.value.exit_code == 128 + number
    assert caught.value.is_sudden
    assert not isinstance(caught.value, Exception)


def test_a_deferred_signal_waits_until_it_is_heeded():
    counted = []
    with listening(), deferring():
        heed()
        assert not is_stop_requested()
        send()
        assert is_stop_requested()
        with pytest.raises(Stopped) as caught:
            heeding(counted.append)(3)
    assert counted == [3]
    assert not caught.value.is_sudden


def test_a_request_that_comes_twice_at_once_is_one_and_a_later_one_another(monkeypatch):
    with listening(), deferring():
        send()
        send(signal.SIGINT)
        monkeypatch.setattr(stopping, "_SAME_SECONDS", 0.0)
        with pytest.raises(Stopped) as caught:
            send(signal.SIGINT)
    assert caught.value.is_sudden


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_what_comes_again_by_itself_is_no_second_request(monkeypatch, number):
    monkeypatch.setattr(stopping, "_SAME_SECONDS", 0.0)
    with listening():
        with deferring():
            send(number)
            send(number)
            assert is_stop_requested()
        send(number)  # while the run ends
        with pytest.raises(Stopped, match=r"^by SIGTERM$"):
            send(signal.SIGTERM)


def test_a_request_that_comes_twice_at_once_raises_once():
    with listening():
        with pytest.raises(Stopped):
            send(signal.SIGTERM)
        send(signal.SIGTERM)  # the first one is still on its way out


@pytest.mark.parametrize("number", ALL)
def test_of_the_signals_that_are_ignored_sighup_stays_so(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with listening(), deferring():
            send(number)
            assert is_stop_requested() == (number != signal.SIGHUP)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_terminal_that_is_gone_is_no_reason_to_die(monkeypatch):
    class Gone:
        def isatty(self) -> bool:
            raise ValueError("I/O operation on closed file")

    with listening(), deferring():
        for stream in (Gone(), None):
            monkeypatch.setattr(sys, "stderr", stream)
            stopping._ears.heard = None
            send()
            assert is_stop_requested()


def test_the_next_run_does_not_hear_of_the_last_ones_signal():
    with listening(), deferring():
        send()
    with listening(), deferring():
        assert not is_stop_requested()


@pytest.mark.parametrize(
    ("arguments", "processes", "command"),
    [
        (["--config", "a b.yaml"], "1", "uv run python train.py --config 'a b.yaml' --resume auto"),
        (
            ["--resume", "x.pt", "--set", "seed=1", "--resume=y.pt", "--allow-config-change"],
            "2",
            "uv run torchrun --nproc-per-node=2 train.py --set seed=1 --allow-config-change --resume auto",
        ),
    ],
)
def test_the_last_words_are_a_command(monkeypatch, arguments, processes, command):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    stop = Stopped(signal.SIGTERM)
    assert last_words(stop, arguments).endswith("nothing is saved yet: start again with the same command")
    stop.saved = "1 epoch, in last.pt"
    assert (
        last_words(stop, arguments)
        == f"stopped by SIGTERM; saved: 1 epoch, in last.pt; go on with: {command}"
    )


DEAF = """
import ctypes, threading
from mrl import stopping
stopping._DEAF_SECONDS = 1.0
with stopping.listening(), stopping.never_deaf():
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    threading.Timer(0.5, print, ["waiting"], {"flush": True}).start()
    libc.pthread_mutex_lock(mutex)  # for ever, and no signal ends it
"""


@pytest.mark.skipif(sys.platform != "linux", reason="waits in glibc")
def test_a_process_that_waits_in_c_ends_all_the_same():
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    began = time.monotonic()
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "waited for another one, which does not answer" in said
    assert time.monotonic() - began < 15
