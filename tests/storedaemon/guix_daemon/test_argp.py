# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines are read as GNU argp reads them.

The expected texts are those that the C++ daemon, version 1.5.0, gave for the same words.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storedaemon.guix_daemon.argp import UsageError, read_options
from storedaemon.guix_daemon.texts import help_text, usage_text
from storedaemon.guix_daemon.translation import OPTIONS


def read(*words: str) -> list[tuple[str, str | None]]:
    """Read a command line of guix-daemon."""
    return list(read_options(OPTIONS, words))


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--cores=4"], [("cores", "4")]),
        (["--cores", "4"], [("cores", "4")]),
        (["-c4"], [("cores", "4")]),
        (["-c", "4"], [("cores", "4")]),
        (["-c=4"], [("cores", "=4")]),
        (["--max-j=2"], [("max-jobs", "2")]),
        (["--deb"], [("debug", None)]),
        (["--disable-d"], [("disable-deduplication", None)]),
        (["--disable-store-opt"], [("disable-deduplication", None)]),
        (["--no-build-hook"], [("no-offload", None)]),
        (["--discover"], [("discover", None)]),
        (["--discover=no"], [("discover", "no")]),
        (["--system="], [("system", "")]),
        (["--listen", "--debug"], [("listen", "--debug")]),
        (["--vers"], [("version", None)]),
        (["-?V"], [("help", None), ("version", None)]),
        (["-cM"], [("cores", "M")]),
        (["--program-name=x"], [("program-name", "x")]),
        (["--"], []),
        ([], []),
    ],
)
def test_options_may_be_written_in_many_ways(words: list[str], given: list[tuple[str, str | None]]):
    """Abbreviated, with the argument attached or apart, letters together."""
    assert read(*words) == given


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bogus"], "unrecognized option '--bogus'"),
        (["--bogus=1"], "unrecognized option '--bogus=1'"),
        (
            ["--no"],
            [
                "option '--no' is ambiguous; possibilities:",
                "'--no-substitutes' '--no-offload' '--no-build-hook'",
            ],
        ),
        (
            ["--dis"],
            [
                "option '--dis' is ambiguous; possibilities: '--disable-chroot'",
                "'--disable-log-compression' '--discover' '--disable-deduplication'",
                "'--disable-store-optimization'",
            ],
        ),
        (["--max-jobs"], "option '--max-jobs' requires an argument"),
        (["-c"], "option requires an argument -- 'c'"),
        (["-M"], "option requires an argument -- 'M'"),
        (["-x"], "invalid option -- 'x'"),
        (["-xV"], "invalid option -- 'x'"),
        (["--debug=3"], "option '--debug' doesn't allow an argument"),
        (["--disc", "--usage=3"], "option '--usage' doesn't allow an argument"),
        (["foo"], "Too many arguments"),
        (["-"], "Too many arguments"),
        (["-c4", "foo"], "Too many arguments"),
        (["--", "--debug"], "Too many arguments"),
        (["--discover", "no"], "Too many arguments"),
        (["foo", "--bogus"], "unrecognized option '--bogus'"),
    ],
)
def test_mistakes_are_told_as_argp_tells_them(words: list[str], message: str | list[str]):
    """The sentence names the word that is wrong."""
    with pytest.raises(UsageError) as caught:
        read(*words)
    assert str(caught.value) == (message if isinstance(message, str) else " ".join(message))


def test_what_stands_before_a_mistake_counts():
    """Options take effect from left to right."""
    options = read_options(OPTIONS, ["--version", "--bogus"])
    assert next(options) == ("version", None)
    with pytest.raises(UsageError):
        next(options)


@given(st.lists(st.text(max_size=20) | st.sampled_from([f"--{o.name}" for o in OPTIONS])))
def test_any_words_are_options_or_mistakes(words: list[str]):
    """Nothing else comes out, whatever goes in."""
    keys = {option.key for option in OPTIONS} | {
        "help",
        "usage",
        "version",
        "program-name",
        "HANG",
    }
    try:
        assert {key for key, _ in read_options(OPTIONS, words)} <= keys
    except UsageError as error:
        assert str(error)  # noqa: PT017 - either outcome is right


def test_help_shows_every_option_that_is_not_hidden():
    """Sorted, in columns, within the width of a terminal."""
    text = help_text("guix-daemon", "a summary", OPTIONS, "The end.")
    lines = text.splitlines()
    assert lines[0] == "Usage: guix-daemon [OPTION...]"
    assert "  -c, --cores=N              tell each build" in text
    assert "      --gc-keep-derivations[=yes/no]\n" + " " * 29 + "whether" in text
    assert "      --build-users-group=GROUP   run" in text
    assert max(map(len, lines)) < 80
    for option in OPTIONS:
        assert (f"--{option.name}" in text) is not option.hidden, option.name


def test_usage_is_a_few_lines():
    """Letters first, then the names."""
    text = usage_text("guix-daemon", OPTIONS)
    assert text.startswith("Usage: guix-daemon [-?V] [-c N] [-M N] [--build-users-group=GROUP]\n  ")
    assert text.endswith("[--help] [--usage]\n            [--version]\n")
    assert max(map(len, text.splitlines())) < 80
