"""Errors meant for the user: raised where the mistake is known, printed without a traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable


class MRLError(Exception):
    """A mistake that the user can mend. The message says what is wrong, where, and what to do."""

    exit_code = 2


class ConfigError(MRLError):
    """One or more problems in the configuration; all of them are listed in one message."""

    def __init__(self, source: str, problems: Iterable[str], advice: str = "") -> None:
        self.problems = list(problems)
        count = len(self.problems)
        title = f"{source}: {count} problem{'s' if count != 1 else ''} in the configuration"
        lines = [title, *(f"  - {problem}" for problem in self.problems)]
        super().__init__("\n".join([*lines, advice] if advice else lines))


class CheckpointError(MRLError):
    """A checkpoint that is missing, damaged, of another format, or that does not fit the model."""


class DataError(MRLError):
    """A corpus, trial list or augmentation folder that cannot be used as configured."""


class AudioError(DataError):
    """One audio file that cannot be read; the message names the file."""


class PeerError(MRLError):
    """Another process has met an error, and has said so; this one ends silently."""


class LostPeerError(MRLError):
    """Another process has ended without a word, killed perhaps, or cannot be reached any more."""


class TrainingError(MRLError):
    """A run that must stop: a non-finite loss, too many unreadable files, a full disk."""
