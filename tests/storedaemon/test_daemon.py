# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole daemon as a process: how it starts, runs and ends."""

from collections.abc import Callable
from typing import Any


def test_it_starts_and_stops_in_order(daemon: Any):
    """A signal ends it with code 0, and its sockets are gone."""
    assert daemon.stop() == 0
    names = [event["event"] for event in daemon.events()]
    assert names[:2] == ["ready", "stopping"]
