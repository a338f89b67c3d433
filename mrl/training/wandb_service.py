"""The client of Weights & Biases and the service process that it starts, either of which may hang.

Nothing here waits for them without a limit, nor does the end of the program: a service that does not answer is killed,
or the client would wait for it at exit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from mrl.config import LoggingConfig
from mrl.training.patience import InTurn, within

T = TypeVar("T")
WandbMode = Literal["online", "offline"]

INIT_SECONDS = 20.0
"""How long the start of an online run may wait for the network."""
FINISH_SECONDS = 60.0
"""How long the end of an online run may wait for uploads; what is left stays on disk."""
GRACE_SECONDS = 30.0
"""How much longer than these the client may take, before it counts as hung."""
_TEARDOWN_SECONDS = 5.0


class WandbService:
    """One run of the client. Raises what the client raises, and TimeoutError where it hangs.

    Attributes:
        run: the client's run.
    """

    def __init__(
        self, config: LoggingConfig, run_config: Mapping[str, Any], run_id: str | None, mode: WandbMode
    ) -> None:
        import wandb

        self._wandb = wandb
        self._before = _services()
        settings = wandb.Settings(
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            silent=True,
            console="off",  # capturing stdout would record every redraw of the progress bar
        )

        def start() -> Any:
            return wandb.init(
                project=config.project,
                name=config.run_name,
                dir=str(config.directory.absolute()),  # its service may have been started in another folder
                config=dict(run_config),
                mode=mode,
                id=run_id,
                resume="allow" if run_id else None,
                reinit="create_new",
                settings=settings,
            )

        try:
            self.run = within(INIT_SECONDS + GRACE_SECONDS, start)
        except TimeoutError:
            self._kill()
            raise
        except Exception:
            # The failed start keeps its run id in the background service; without this, the offline run that
            # follows is refused ("run ID is in use") or waits for its whole timeout.
            wandb.teardown()
            raise
        self._in_turn = InTurn()

    def log(self, values: Mapping[str, Any]) -> None:
        """Record ``values``, soon. Raises what an earlier call met."""
        self._limited(lambda: self._in_turn.do(lambda: self.run.log(dict(values))))

    def finish(self, exit_code: int) -> None:
        """End the run, when all is recorded."""
        limit = FINISH_SECONDS + GRACE_SECONDS
        self._limited(lambda: self._in_turn.finish(limit))
        self._limited(lambda: within(limit, lambda: self.run.finish(exit_code=exit_code)))

    def _limited(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except TimeoutError:
            self._kill()
            raise

    def _kill(self) -> None:
        for pid in _services() - self._before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(Exception):  # it finds its service gone, which is all that is left to find
            within(_TEARDOWN_SECONDS, self._wandb.teardown)


def _services() -> set[int]:
    """Those of this process's children that belong to Weights & Biases; none where there is no /proc."""
    found = set()
    for table in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # pid (name) state parent ...: the name may hold anything, brackets too
            name, _, rest = table.read_text(errors="replace").partition(" (")[2].rpartition(") ")
            if name.startswith("wandb") and int(rest.split()[1]) == os.getpid():
                found.add(int(table.parent.name))
    return found
