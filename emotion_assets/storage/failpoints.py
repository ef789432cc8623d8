"""Places where a test can kill the process, to show that the run after it finishes the work.

``EMOTION_FAILPOINT=name`` kills at the first time the named place is reached, ``name:3`` at the third. Unset, a
failpoint does nothing. SIGKILL leaves no chance to clean up, as a power cut would.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "EMOTION_FAILPOINT"
_reached: dict[str, int] = {}


def failpoint(name: str) -> None:
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if wanted == name:
        _reached[name] = _reached.get(name, 0) + 1
        if _reached[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
