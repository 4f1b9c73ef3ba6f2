# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling how a download goes."""

import io

from builder.download.progress import Progress


class Clock:
    """A clock that goes on when it is told."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_programs_get_a_line_five_times_a_second():
    """In the form of Guix, with the size where it is known."""
    clock, output = Clock(), io.StringIO()
    progress = Progress(output, "/s/f", "http://x", traces=True, clock=clock)
    progress.start(9)
    for received in (1, 2, 3, 4):
        clock.now += 0.11
        progress.report(received)
    progress.finish(9)
    assert output.getvalue().splitlines() == [
        "@ download-started /s/f http://x 9",
        "@ download-progress /s/f http://x 9 2",
        "@ download-progress /s/f http://x 9 4",
        "@ download-progress /s/f http://x 9 9",
        "@ download-succeeded /s/f http://x 9",
    ]


def test_a_resumed_download_is_started_once():
    """Clients have one bar for it."""
    output = io.StringIO()
    progress = Progress(output, "/s/f", "http://x", traces=True, clock=Clock())
    progress.start(None)
    progress.start(9)
    assert output.getvalue().splitlines() == ["@ download-started /s/f http://x -"]


def test_people_get_few_lines():
    """A log is not flooded."""
    clock, output = Clock(), io.StringIO()
    progress = Progress(output, "/s/f", "http://x", traces=False, clock=clock)
    progress.start(None)
    for received in range(100):
        clock.now += 0.15
        progress.report(received)
    assert output.getvalue() == "  66 of - bytes\n"
