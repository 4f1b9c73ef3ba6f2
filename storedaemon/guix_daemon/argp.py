# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a command line as GNU argp reads it; pure.

Long options may be abbreviated as long as it is clear which is meant, options and
operands may be mixed, and each option counts from left to right: one that prints a
version comes before a mistake to its right. Entry point: `read_options`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArgpOption:
    """One option.

    Attributes:
        name: After ``--``.
        help: What it does, in half a sentence.
        argument: What its argument is called; empty for none.
        short: Its letter after ``-``; empty for none.
        optional: Whether the argument may be left out.
        hidden: Whether ``--help`` is silent about it.
        same_as: The name of the option of which it is another spelling; empty for none.
    """

    name: str
    help: str = ""
    argument: str = ""
    short: str = ""
    optional: bool = False
    hidden: bool = False
    same_as: str = ""

    @property
    def key(self) -> str:
        """The name that all spellings of the option share."""
        return self.same_as or self.name


Given = tuple[str, str | None]
"""An option's key, and its argument if it has one."""

HELP = ArgpOption("help", "give this help list", short="?")
USAGE = ArgpOption("usage", "give a short usage message")
VERSION = ArgpOption("version", "print program version", short="V")

# Every program that uses argp has these; the names are sought in this order.
COMMON = (
    HELP,
    ArgpOption("program-name", "set the program name", "NAME", hidden=True),
    USAGE,
    ArgpOption("HANG", "hang for SECS seconds (default 3600)", "SECS", optional=True, hidden=True),
    VERSION,
)


class UsageError(Exception):
    """A command line that is wrong; the text lacks the program's name.

    Argp's exit status for it is 64, which sysexits.h calls ``EX_USAGE``.
    """


def read_options(options: Sequence[ArgpOption], words: Sequence[str]) -> Iterator[Given]:
    """Yield the options given, from left to right.

    Args:
        options: What there is, beside `COMMON`.
        words: The command line without the program's name.

    Raises:
        UsageError: At the first mistake; an operand is one, after all options.
    """
    known = (*options, *COMMON)
    rest = list(reversed(words))
    operands = False
    while rest:
        word = rest.pop()
        if word == "--":
            operands = operands or bool(rest)
            break
        if word.startswith("--"):
            yield _long(known, word, rest)
        elif word.startswith("-") and len(word) > 1:
            yield from _short(known, word[1:], rest)
        else:
            operands = True
    if operands:
        raise UsageError("Too many arguments")


def _long(known: Sequence[ArgpOption], word: str, rest: list[str]) -> Given:
    name, equals, argument = word[2:].partition("=")
    option = _find(known, name, word)
    if equals and not option.argument:
        raise UsageError(f"option '--{option.name}' doesn't allow an argument")
    if equals or not option.argument or option.optional:
        return option.key, argument if equals else None
    if not rest:
        raise UsageError(f"option '--{option.name}' requires an argument")
    return option.key, rest.pop()


def _find(known: Sequence[ArgpOption], name: str, word: str) -> ArgpOption:
    matches = [option for option in known if option.name.startswith(name)]
    for option in matches:
        if option.name == name:
            return option
    if not matches:
        raise UsageError(f"unrecognized option '{word}'")
    if len({option.key for option in matches}) > 1:
        names = " ".join(f"'--{option.name}'" for option in matches)
        raise UsageError(f"option '{word}' is ambiguous; possibilities: {names}")
    return matches[0]


def _short(known: Sequence[ArgpOption], letters: str, rest: list[str]) -> Iterator[Given]:
    """Read what follows one dash: letters without arguments, then perhaps one with."""
    for at, letter in enumerate(letters):
        option = next((each for each in known if each.short == letter), None)
        if option is None:
            raise UsageError(f"invalid option -- '{letter}'")
        if not option.argument:
            yield option.key, None
            continue
        argument = letters[at + 1 :]
        if not argument and not rest:
            raise UsageError(f"option requires an argument -- '{letter}'")
        yield option.key, argument or rest.pop()
        return
