# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``--help`` and ``--usage`` print, laid out as GNU argp lays it out; pure."""

import textwrap
from collections.abc import Iterator, Sequence

from storedaemon.guix_daemon.argp import HELP, USAGE, VERSION, ArgpOption

WIDTH = 78
HELP_COLUMN = 29
USAGE_INDENT = " " * 12


def help_text(program: str, summary: str, options: Sequence[ArgpOption], epilogue: str) -> str:
    """Describe every option that is not hidden, sorted by name, the common ones last."""
    shown = (*sorted(_visible(options), key=lambda option: option.name), HELP, USAGE, VERSION)
    lines = "\n".join(map(_describe, shown))
    return (
        f"Usage: {program} [OPTION...]\n{program} -- {summary}\n\n{lines}\n\n"
        f"{textwrap.fill(_SHORT_TOO, WIDTH + 1)}\n\n{textwrap.fill(epilogue, WIDTH)}\n"
    )


_SHORT_TOO = (
    "Mandatory or optional arguments to long options are also mandatory or optional"
    " for any corresponding short options."
)


def usage_text(program: str, options: Sequence[ArgpOption]) -> str:
    """Name every option that is not hidden, on as few lines as possible."""
    shown = (*sorted(_visible(options), key=lambda option: option.name), HELP, USAGE, VERSION)
    letters = "".join(option.short for option in shown if not option.argument)
    words = [f"[-{letters}]"]
    words += [f"[-{o.short}\0{o.argument}]" for o in shown if o.short and o.argument]
    words += [f"[{_long(option)}]" for option in shown]
    text = textwrap.fill(
        f"Usage: {program} {' '.join(words)}",
        WIDTH,
        subsequent_indent=USAGE_INDENT,
        break_on_hyphens=False,
    )
    return text.replace("\0", " ") + "\n"


def _visible(options: Sequence[ArgpOption]) -> Iterator[ArgpOption]:
    return (option for option in options if not option.hidden)


def _long(option: ArgpOption) -> str:
    if option.optional:
        return f"--{option.name}[={option.argument}]"
    return f"--{option.name}" + (f"={option.argument}" if option.argument else "")


def _describe(option: ArgpOption) -> str:
    head = f"  -{option.short}, " if option.short else " " * 6
    head += _long(option)
    if len(head) > HELP_COLUMN + 3:
        head += "\n" + " " * HELP_COLUMN
    elif len(head) >= HELP_COLUMN:
        head += "   "
    head = head.ljust(HELP_COLUMN)
    start = len(head.rpartition("\n")[2])
    text = textwrap.fill(
        option.help,
        WIDTH,
        initial_indent=" " * start,
        subsequent_indent=" " * HELP_COLUMN,
        break_on_hyphens=False,
    )
    return head + text[start:]
