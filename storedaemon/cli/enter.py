# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon enter`: a shell in the place of a builder.

Where standard input and output are a terminal, it is raw while the shell runs: what is typed
goes to the terminal in the container, which makes of it what terminals make of it. Whatever
ends this process, short of SIGKILL, the terminal is as before.
"""

import os
import signal
import sys
import termios
import tty
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import trio

from builder.events import BuildEvent, GoalWaiting, Message
from storedaemon.cli.progress import printable
from storedaemon.cli.session import connected
from storedaemon.client.entering import Entered, EnterWishes, Shell
from storedaemon.wire.native.events import UnknownEvent

_BLOCK = 32 * 1024
_STDIN, _STDOUT = 0, 1
_SIGNALLED = 128


def run(options: Namespace) -> int:
    """Run a shell; give its exit code, or 128 and the number of what ended it."""
    return trio.run(_enter, options)


async def _enter(options: Namespace) -> int:
    interactive = os.isatty(_STDIN) and os.isatty(_STDOUT)
    wishes = EnterWishes(
        fresh=options.fresh,
        command=tuple(options.words),
        terminal=os.get_terminal_size(_STDOUT) if interactive else None,
        type=os.environ.get("TERM", "") if interactive else "",
    )
    async with connected(options) as client, client.enter(options.drv, wishes) as shell:
        with ExitStack() as terminal:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_by_signal)
                await _converse(shell, nursery, terminal if interactive else None)
                code = _exit_code(await shell.ended())
                nursery.cancel_scope.cancel()
    return code


async def _converse(shell: Shell, nursery: trio.Nursery, terminal: ExitStack | None) -> None:
    """Print what comes until the shell has ended; read once it runs."""
    async for seen in shell:
        if isinstance(seen, bytes):
            sys.stdout.buffer.write(seen)
            sys.stdout.buffer.flush()
        elif isinstance(seen, Entered):
            nursery.start_soon(_type, shell)
            if terminal is not None:
                terminal.enter_context(_raw(_STDIN))
                nursery.start_soon(_follow_size, shell)
        elif line := _line(seen):
            sys.stderr.write(f"{printable(line)}\r\n" if terminal else f"{printable(line)}\n")


def _line(event: BuildEvent | UnknownEvent) -> str:
    match event:
        case GoalWaiting(what=what, holder=holder):
            return f"waiting for {what}: {holder}"
        case Message(text=text):
            return text
        case _:
            return ""


async def _type(shell: Shell) -> None:
    """Send what is typed, or comes from a pipe or a file, which cannot be waited for alike."""
    while data := await trio.to_thread.run_sync(_read, abandon_on_cancel=True):
        if not await shell.send(data):
            return
    await shell.end_input()


def _read() -> bytes:
    try:
        return os.read(_STDIN, _BLOCK)
    except OSError:
        return b""  # the terminal has been hung up


async def _follow_size(shell: Shell) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            await shell.resize(*os.get_terminal_size(_STDOUT))


async def _end_by_signal() -> None:
    """End in order, and so leave the terminal as it was."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for number in signals:
            raise SystemExit(_SIGNALLED + number)


def _exit_code(ended: Mapping[str, Any]) -> int:
    code = ended.get("code")
    return _SIGNALLED + int(ended.get("signal") or 0) if code is None else int(code)


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed already is for the shell
    try:
        yield
    finally:
        with suppress(termios.error):  # it may have been hung up
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
