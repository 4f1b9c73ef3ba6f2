# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the kernel ends when memory runs out: builders first, the daemon and its helpers last.

Builders ask for it themselves (`builder.spawner.calls`). Entry points: `protect`, `expose`.
"""

from contextlib import suppress

PROTECTED = -500
USUAL = 0


def protect(pid: int) -> bool:
    """Have a process spared as long as others can be ended; tell whether we may ask for that."""
    try:
        if _score(pid) > PROTECTED:
            _set_score(pid, PROTECTED)
    except OSError:
        # It takes CAP_SYS_RESOURCE, which a daemon of an ordinary user has not.
        return False
    return True


def expose(pid: int) -> None:
    """Have a process treated like any other, though its parent is spared."""
    # It may have ended; raising a score is allowed to everybody.
    with suppress(OSError):
        if _score(pid) < USUAL:
            _set_score(pid, USUAL)


def _score(pid: int) -> int:
    with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def _set_score(pid: int, score: int) -> None:
    with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(score))
