"""Whether files can be put into a folder, asked before the work that they are to hold."""

from __future__ import annotations

import os
from pathlib import Path


def why_unwritable(folder: Path) -> str | None:
    """What stands in the way of writing files into ``folder``, which may be yet to be made; None where nothing does.

    A name on the way that is there and is no folder (a file, a link that leads nowhere or in a circle) does.
    """
    for place in (folder.absolute(), *folder.absolute().parents):
        if os.path.isdir(place):
            return None if os.access(place, os.W_OK | os.X_OK) else f"no permission to write into {place}"
        if os.path.islink(place) and not os.path.exists(place):
            return f"{place} is a link to {os.readlink(place)}, which is not there or leads in a circle"
        if os.path.lexists(place):
            return f"{place} is no folder"
    return f"{folder} is on no disk"
