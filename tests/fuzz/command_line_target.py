"""Arguments of train.py and evaluate.py, drawn at random."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from types import ModuleType

import evaluate
import train
from mrl.errors import MRLError
from tests.fuzz.campaign import Input, Target
from tests.fuzz.config_targets import CONFIG

FLAGS = {
    train: [
        "--config", "--set", "--resume", "--allow-config-change", "--dry-run", "--overfit", "--nonsense", "-h2",
    ],
    evaluate: [
        "--checkpoint", "--trials", "--root", "--config", "--set", "--dims", "--with", "--output", "--scores",
        "--replace-decisions", "--device", "--workers", "--nonsense",
    ],
}  # fmt: skip
NUMBERS = ["-1", "0", "1", "99999999999999999999", "9" * 5000, "nan", "1e9"]
OVERRIDES = ["a=b", "=", "a.b=", "stages=[]", "seed=x", "stages.0.epochs={", "data=null"]


def command_lines(folder: Path) -> Target:
    """One to four flags, most with a value; no data is there, so that nothing can go well."""
    config, bad = folder / "run.yaml", folder / "bad.pt"
    config.write_bytes(CONFIG.read_bytes())
    bad.write_bytes(b"bad")
    (folder / "folder.pt").mkdir()
    paths = [str(folder / name) for name in ("run.yaml", "bad.pt", "folder.pt", "no.pt")]
    values = [
        "", " ", "-", "--", "x", *NUMBERS, "\udcff", "é", "\x1b[2J", *paths, "x" * 5000,
        "redimnet-b9", *OVERRIDES, "~nobody/x.pt", "/",
    ]  # fmt: skip
    needed = {train: ["--config", str(config)], evaluate: ["--checkpoint", str(bad)]}

    def target(rng: random.Random) -> Input:
        program = rng.choice([train, evaluate])
        arguments = list(needed[program]) if rng.random() < 0.7 else []
        for _ in range(rng.randint(1, 4)):
            arguments.append(rng.choice(FLAGS[program]))
            if rng.random() < 0.7:
                arguments.append(rng.choice(values))

        places = ("--", *[".: "] * ("" in arguments), *(repr(text[:80])[1:-1] for text in arguments if text))
        saved = "\0".join(arguments).encode("utf-8", "surrogateescape")
        return Input(lambda: _refused(program, arguments), saved, places)

    return target


def _refused(program: ModuleType, arguments: list[str]) -> None:
    """Raise the refusal of ``program``, whose main must end with code 2 and print it as standard error does."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = program.main(arguments)
    said = errors.getvalue().encode("utf-8", "backslashreplace").decode()
    assert code == 2, f"exit code {code}"
    assert said.startswith("error: "), said[:300]
    raise MRLError(said.removeprefix("error: "))
