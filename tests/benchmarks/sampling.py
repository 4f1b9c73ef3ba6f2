# SPDX-License-Identifier: GPL-3.0-or-later
"""What a process of its own sees while something else is measured. Entry point: `sampled`."""

import os
import select
import socket
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_MS = 1
"""Between two samples: what holds a daemon up for longer cannot be missed."""


@contextmanager
def sampled(sample: Callable[[], float]) -> Iterator[Callable[[], list[float]]]:
    """Have a process take samples all the while; give what ends it and returns them, sorted."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            _take_samples(sample, theirs)
        finally:
            os._exit(0)
    theirs.close()

    def finish() -> list[float]:
        ours.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as samples:
            return sorted(array("d", samples.read()))

    try:
        yield finish
    finally:
        ours.close()
        os.waitpid(child, 0)


def _take_samples(sample: Callable[[], float], sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    samples = array("d", [sample()])
    while not poll.poll(PAUSE_MS):
        samples.append(sample())
    sock.sendall(samples.tobytes())


def percentile(values: list[float], share: float) -> float:
    """Return what that share of sorted values does not exceed."""
    return values[min(len(values) - 1, int(len(values) * share))]
