"""Both command lines answer before PyTorch, which takes seconds, is imported; and Ctrl-C is heard while it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT_TORCH = """
import sys, train, evaluate
sys.modules["torch"] = None  # to import it is an error now
evaluate.parse_arguments(["--checkpoint", "best.pt", "--with", "all"])
sys.exit(train.main(["--config", "config.yaml", "--set", "seed=none"]))
"""
INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Interrupt())
import {module}
sys.exit({module}.main({arguments}))
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_mistake_in_a_configuration_is_said_without_pytorch():
    done = python(WITHOUT_TORCH)
    assert done.returncode == 2
    assert done.stderr.startswith("error: config.yaml: 1 problem in the configuration\n  - --set: seed: ")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_training_starts_ends_it_in_one_line(name, code):
    arguments = ["--config", "configs/demo.yaml"]
    done = python(INTERRUPTED.format(name=name, module="train", arguments=arguments))
    assert done.returncode == code
    assert done.stderr == f"stopped by {name}; nothing is saved yet: start again with the same command\n"


def test_ctrl_c_while_an_evaluation_starts_ends_it_in_one_line():
    arguments = ["--checkpoint", "best.pt"]
    done = python(INTERRUPTED.format(name="SIGINT", module="evaluate", arguments=arguments))
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
