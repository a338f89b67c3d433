"""Damaged inputs of every kind: accepted or refused in words, never a traceback, a hang or a full memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.config_file import config_to_dict, load_config, load_environment
from mrl.data.trials import read_trials
from mrl.errors import MRLError
from mrl.models.decision_bundle import read_bundle
from mrl.models.tensor_file import read_tensor_file
from mrl.packed import TABLE, open_table
from tests.fuzz.campaign import Input, Target, attack, complaint
from tests.fuzz.config_targets import CONFIG
from tests.fuzz.odd_values import CHUNKS
from tests.fuzz.targets import SHARES, targets

FAST, SLOW = 1500, 20_000
anything = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
pieces = st.lists(st.one_of(st.sampled_from(CHUNKS), st.binary(max_size=40)), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("targets"))


def survive(target: Target, name: str, inputs: int, seed: int) -> None:
    count = -(-inputs * SHARES[name] // sum(SHARES.values()))
    tally = attack(target, name, range(count), seed)
    shown = "\n".join(f"input {number}: {problem}" for number, problem, _ in tally.failures[:5])
    assert not tally.failures, f"{len(tally.failures)} of {count} inputs fail\n{shown}"
    assert tally.accepted + tally.refused == count


@pytest.mark.parametrize("name", SHARES)
def test_damaged_inputs_are_accepted_or_refused_in_words(attacked: dict[str, Target], name: str) -> None:
    survive(attacked[name], name, FAST, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARES)
def test_twenty_thousand_damaged_inputs(attacked: dict[str, Target], name: str) -> None:
    survive(attacked[name], name, SLOW, seed=1)


def accepted_or_named(place: str, run: Callable[[], object]) -> None:
    """``run`` ends well, or with an error that names ``place``."""
    message = place
    try:
        run()
    except MRLError as error:
        message = str(error)
    assert place in message


def test_the_campaign_finds_a_crash_a_vague_message_and_a_slow_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.MOST_SECONDS", 0.05)

    def crash() -> None:
        raise KeyError("x")

    def vague() -> None:
        raise MRLError("something is wrong")

    def slow() -> None:
        began = time.process_time()
        while time.process_time() - began < 0.1:
            pass

    for run, words in [(crash, "KeyError"), (vague, "without a place"), (slow, "took ")]:
        (failure,) = attack(lambda _, run=run: Input(run, b"", ("file.txt",)), "test", [0], 0).failures
        assert words in failure[1]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("list.txt: line 3: bad", None),
        ("list.txt: bad", "without a line"),
        ("list.txt: this trial list is empty", None),
        ("list.txt: line 3: \x1b[2J", "cannot be printed"),
        ("line 3: bad", "without a place"),
        ("list.txt: line 1: " + "x" * 10_000, "letters"),
    ],
)
def test_messages_are_judged(message: str, problem: str | None) -> None:
    found = complaint(message, Input(lambda: None, b"", ("list.txt",), needs_line=True))
    assert (found is None) if problem is None else (found is not None and problem in found)


@anything
@given(content=pieces)
def test_any_bytes_as_a_trial_list_or_a_map(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    (tmp_path / "good.txt").write_bytes(b"m a.wav target\nm b.wav nontarget\n")
    for path, enrolment_map in [("list.txt", None), ("good.txt", "list.txt"), ("list.txt", "list.txt")]:
        chosen = None if enrolment_map is None else tmp_path / enrolment_map
        accepted_or_named(".txt", partial(read_trials, tmp_path / path, tmp_path, enrolment_map=chosen))


@anything
@given(content=pieces, prefix=st.booleans())
def test_any_bytes_as_a_configuration(tmp_path: Path, content: bytes, prefix: bool) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes((CONFIG.read_bytes() if prefix else b"") + content)
    accepted_or_named("run.yaml", lambda: config_to_dict(load_config(path)))


@anything
@given(
    text=st.text(max_size=60),
    key=st.sampled_from(["seed", "stages.head.epochs", "prefixes.0.dim", "data.train"]),
)
def test_any_text_as_an_override(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(CONFIG.read_bytes())
    for override in (text, f"{key}={text}", f"{text}=1", f"{key}.{text}=1"):
        accepted_or_named("run.yaml", partial(load_config, path, [override]))


@anything
@given(content=pieces)
def test_any_bytes_as_a_checkpoint_a_table_a_bundle_and_an_environment(
    tmp_path: Path, content: bytes
) -> None:
    for name in ("best.pt", TABLE, "best.decisions.json", ".env"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MRLError, match=r"best\.pt"):
        read_tensor_file(tmp_path / "best.pt")
    with pytest.raises(MRLError, match=r"corpus\.npz"):
        open_table(tmp_path)
    with pytest.raises(MRLError, match=r"best\.decisions\.json"):
        read_bundle(tmp_path / "best.decisions.json", "0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", {})
        accepted_or_named(".env", lambda: load_environment(tmp_path / ".env"))
