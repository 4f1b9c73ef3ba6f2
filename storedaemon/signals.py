# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals that come while the daemon starts: kept until there is an event loop to stop.

Without this, one of them would end the process and leave its socket files. Entry
point: `EarlySignals`.
"""

import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that ask the daemon to stop."""


class EarlySignals:
    """Takes signals from when it is made until others do."""

    def __init__(self) -> None:
        self._first: int | None = None
        for number in SIGNALS:
            signal.signal(number, self._take)

    def hand_over(self, stop: Callable[[str], None]) -> None:
        """Pass on what came; to be called when others have begun to take signals."""
        if self._first is not None:
            stop(signal.Signals(self._first).name)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = number
