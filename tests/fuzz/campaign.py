"""Damaged inputs against everything that reads a file or an argument: what counts as a failure, and the tally.

An input may be accepted or refused. Refused means an MRLError (or argparse's exit with code 2) whose message names the
place, is short and can be printed. Anything else is a failure, as is an input that takes long or much memory.
"""

from __future__ import annotations

import random
import resource
import signal
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrl.errors import MRLError

MOST_SECONDS = 2.0  # of this process's own time
MOST_BYTES = 300_000_000  # by which the peak of memory may rise
LONGEST_MESSAGE = 9000  # twenty lines of a configuration's problems
HANGS_AFTER = 60


class Hang(Exception):
    """An input that did not come to an end."""


@dataclass(frozen=True)
class Input:
    """A damaged input: what to try, how to keep it, and what the message of a refusal must name (one of these)."""

    run: Callable[[], object]
    saved: bytes
    places: tuple[str, ...]
    needs_line: bool = False
    """Whether a line number must be in the message too, unless it is about the whole file."""


Target = Callable[[random.Random], Input]
"""Makes an input of what it draws."""


@dataclass
class Tally:
    """What became of the inputs of one target."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[tuple[int, str, bytes]] = field(default_factory=list)  # number, what went wrong, the input
    slowest: float = 0.0
    """Seconds."""


def attack(target: Target, name: str, numbers: Iterable[int], seed: int) -> Tally:
    """Try the inputs of ``target`` with these ``numbers``; input n depends on (seed, name, n) alone."""
    tally = Tally()
    for number in numbers:
        attempt = target(random.Random(f"{seed} {name} {number}"))
        tally.tried += 1
        started, peak = time.process_time(), _peak()
        problem = None
        try:
            with _limited():
                attempt.run()
            tally.accepted += 1
        except MRLError as error:
            tally.refused += 1
            problem = complaint(str(error), attempt)
        except SystemExit as stop:
            tally.refused += 1
            problem = None if stop.code == 2 else f"exit code {stop.code}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = f"{type(error).__name__}: {error!s:.300}\n" + "".join(traceback.format_exc()[-1500:])
        seconds = time.process_time() - started
        tally.slowest = max(tally.slowest, seconds)
        if problem is None and seconds > MOST_SECONDS:
            problem = f"took {seconds:.1f} s"
        if problem is None and _peak() - peak > MOST_BYTES:
            problem = f"took {(_peak() - peak) / 1e6:.0f} MB"
        if problem is not None:
            tally.failures.append((number, problem, attempt.saved))
    return tally


def complaint(message: str, attempt: Input) -> str | None:
    """What is wrong with the message of a refusal; None if nothing is."""
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} letters: {message[:200]!r}"
    if any(unicodedata.category(letter) in ("Cc", "Cs") and letter != "\n" for letter in message):
        return f"a message that cannot be printed: {message[:500]!r}"
    if not any(place in message for place in attempt.places):
        return f"a message without a place: {message[:500]!r}"
    whole_file = ("is empty", "trials are", "cannot be read", "cannot be told", "not in ")
    if attempt.needs_line and "line " not in message and not any(words in message for words in whole_file):
        return f"a message without a line: {message[:500]!r}"
    return None


def save_failures(folder: Path, name: str, seed: int, tally: Tally) -> None:
    """Write each failing input, and beside it what went wrong and how to try it again."""
    if tally.failures:
        folder.mkdir(parents=True, exist_ok=True)
    for number, problem, content in tally.failures:
        stem = folder / f"{name}_{seed}_{number}"
        stem.with_suffix(".input").write_bytes(content)
        again = f"uv run python scripts/fuzz.py --targets {name} --seed {seed} --only {number}"
        stem.with_suffix(".txt").write_text(
            f"{again}\n{problem}\n", encoding="utf-8", errors="backslashreplace"
        )


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"no end after {HANGS_AFTER} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS_AFTER)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
