# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon ps`: what the daemon does, once or again and again.

What is shown is made by pure functions; a terminal's other screen is drawn anew in place,
so that what was on it is there again afterwards. Entry point: `run`.
"""

import dataclasses
import shutil
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import trio

from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.progress import elapsed, printable, short_name
from storedaemon.cli.reporters import Style, style
from storedaemon.cli.session import connected
from storedaemon.wire.native.records import Goal

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_BUSY = (
    "building",
    "preparing",
    "sealing",
    "registering",
    "offloaded",
    "downloading",
    "entered",
)
_NAME_WIDTH = 28


def run(options: Namespace) -> int:
    """Show what is built, and what waits; give the exit code."""
    try:
        return trio.run(_ps, options)
    except KeyboardInterrupt:
        if not options.watch:
            raise
        return Exit.OK


async def _ps(options: Namespace) -> int:
    async with connected(options) as client:
        if not options.watch:
            _print_once(await client.goals(), options)
            return Exit.OK
        screen = Screen(sys.stdout) if sys.stdout.isatty() and not options.json else None
        try:
            while True:
                goals, status = await client.goals(), await client.status()
                _show(screen, goals, status, options)
                await trio.sleep(options.interval)
        finally:
            if screen is not None:
                screen.close()


def _print_once(goals: Sequence[Goal], options: Namespace) -> None:
    if options.json:
        print_json([goal_json(goal) for goal in goals])
        return
    print_lines(line for goal in goals for line in _goal_lines(goal))
    if not goals:
        sys.stderr.write("nothing is being built\n")


def _show(
    screen: "Screen | None", goals: Sequence[Goal], status: Mapping[str, Any], options: Namespace
) -> None:
    if screen is not None:
        size = shutil.get_terminal_size()
        screen.draw(watch_lines(goals, status, size, style(sys.stdout), time.time()))
    elif options.json:
        print_json(
            {"time": time.time(), "status": status, "goals": [goal_json(goal) for goal in goals]}
        )
    else:
        lines = watch_lines(goals, status, (1000, 1_000_000), style(sys.stdout), time.time())
        print_lines([*lines, ""])
    sys.stdout.flush()


class Screen:
    """The other screen of a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        out.write(_ENTER)

    def draw(self, lines: Iterable[str]) -> None:
        """Show these lines instead of those before."""
        text = "\r\n".join(f"{line}{_REST_OF_LINE}" for line in lines)
        self._out.write(f"{_HOME}{text}{_REST}")

    def close(self) -> None:
        """Go back to the usual screen."""
        self._out.write(_LEAVE)
        self._out.flush()


def goal_json(goal: Goal) -> Mapping[str, Any]:
    """Give a goal as JSON values."""
    values = {name.replace("_", "-"): getattr(goal, name) for name in goal.__slots__}
    return values | {"holders": [dataclasses.asdict(holder) for holder in goal.holders]}


def _goal_lines(goal: Goal) -> Iterator[str]:
    what = f"{goal.state} ({goal.waits_for})" if goal.waits_for else goal.state
    shell = f", shell {goal.shell}" if goal.shell else ""
    pid = f", pid {goal.pid}" if goal.pid else ""
    attempt = f", attempt {goal.attempt}" if goal.attempt > 1 else ""
    priority = f", priority {goal.priority}" if goal.priority else ""
    yield goal.drv
    yield f"  {what} for {goal.age:.0f} s{shell}{pid}{attempt}{priority}"
    for client in goal.clients:
        yield f"  wanted by {client.get('user') or 'an unknown user'} ({_whence(client)})"


def _whence(client: Mapping[str, Any]) -> str:
    return "detached" if client.get("detached") else f"pid {client.get('pid')}"


def watch_lines(
    goals: Sequence[Goal],
    status: Mapping[str, Any],
    size: tuple[int, int],
    look: Style,
    now: float,
) -> list[str]:
    """Give what `ps --watch` shows: never wider or higher than the terminal.

    Args:
        goals: What there is.
        status: What the daemon says of itself.
        size: Columns and rows.
        look: The colours.
        now: Seconds since 1970.
    """
    columns, rows = max(size[0], 40), max(size[1], 4)
    ordered = sorted(goals, key=lambda goal: (goal.state not in _BUSY, -goal.priority, -goal.age))
    room = rows - 3
    shown = ordered if len(ordered) <= room else ordered[: room - 1]
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    head = f"storedaemon {clock}  {_totals(goals)}; at most {status.get('max-jobs')} at once"
    lines = [look.bold(head[: columns - 1]), ""]
    lines.append(look.faint(_row(("STATE", "AGE", "FOR", "WHAT", ""), columns)))
    lines += [_goal_row(goal, columns) for goal in shown]
    if len(shown) < len(ordered):
        lines.append(f"… and {len(ordered) - len(shown)} more")
    return lines[:rows]


def _totals(goals: Iterable[Goal]) -> str:
    counts = Counter(goal.state for goal in goals)
    waiting = sum(n for state, n in counts.items() if state.startswith("waiting"))
    busy = [f"{counts[state]} {state}" for state in _BUSY if counts[state]]
    return ", ".join([*busy, f"{waiting} waiting"])


def _goal_row(goal: Goal, columns: int) -> str:
    waits = goal.state.startswith("waiting")
    state = "waiting" if waits else goal.state
    name = short_name(goal.drv)
    if goal.attempt > 1:
        name = f"{name} #{goal.attempt}"
    detail = goal.waits_for if waits else goal.last_line
    shell = f"shell {goal.shell} " if goal.shell else ""
    priority = f"[{goal.priority:+}] " if goal.priority else ""
    return _row((state, elapsed(goal.age), _whom(goal), name, shell + priority + detail), columns)


def _whom(goal: Goal) -> str:
    users = list(dict.fromkeys(str(c.get("user") or "?") for c in goal.clients))
    more = f"+{len(users) - 1}" if len(users) > 1 else ""
    return f"{users[0] if users else '-'}{more}"


def _row(texts: tuple[str, str, str, str, str], columns: int) -> str:
    state, age, whom, name, detail = map(printable, texts)
    line = f"{state:<11.11} {age:>7.7} {whom:<10.10} {name:<{_NAME_WIDTH}.{_NAME_WIDTH}} {detail}"
    return line[: columns - 1].rstrip()
