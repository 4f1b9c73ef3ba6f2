# SPDX-License-Identifier: GPL-3.0-or-later
"""What a derivation itself says of retries; pure.

A package whose tests are known to be flaky can ask for more attempts, or for quiet
from the first one on, in its environment:

* ``retryAttempts``: how often it is built at most;
* ``retryDelay``: seconds between attempts;
* ``retryCores``: cores that a retry is told to use;
* ``retryQuiet``: ``usual``, ``half`` or ``alone``: how quiet the machine has to be
  for the first attempt.

What a daemon that knows nothing of it does with these variables is nothing, so they
may be used everywhere. Entry point: `settings_of`.
"""

from dataclasses import replace

from builder.errors import BuildError
from builder.events import FailureKind
from builder.retries.policy import Quiet, RetrySettings
from store.derivations import Derivation

MAX_ATTEMPTS = 100
MAX_DELAY = 24 * 60 * 60
MAX_CORES = 65536

_NAMES = ("retryAttempts", "retryDelay", "retryCores", "retryQuiet")


def settings_of(derivation: Derivation, base: RetrySettings) -> tuple[Quiet, RetrySettings]:
    """Return how quiet it has to be at first, and how a derivation is retried.

    Args:
        derivation: What is built.
        base: What the daemon and the client have chosen; attributes go before.

    Raises:
        BuildError: An attribute has a value that it cannot have.
    """
    env = derivation.env
    if env.keys().isdisjoint(_NAMES):
        return Quiet.USUAL, base
    settings = replace(
        base,
        attempts=_number(env.get("retryAttempts"), "retryAttempts", 1, MAX_ATTEMPTS, base.attempts),
        delay=_number(env.get("retryDelay"), "retryDelay", 0, MAX_DELAY, int(base.delay)),
        cores=_number(env.get("retryCores"), "retryCores", 0, MAX_CORES, base.cores),
    )
    return _quiet(env.get("retryQuiet", Quiet.USUAL.word)), settings


def _number(text: str | None, name: str, least: int, most: int, default: int) -> int:
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 6 and least <= int(text) <= most:
        return int(text)
    raise _wrong(name, text, f"a number from {least} to {most}")


def _quiet(word: str) -> Quiet:
    found = {each.word: each for each in Quiet}.get(word)
    if found is None:
        raise _wrong("retryQuiet", word, "one of " + ", ".join(each.word for each in Quiet))
    return found


def _wrong(name: str, text: str, wanted: str) -> BuildError:
    return BuildError(
        f"attribute `{name}' of the derivation must be {wanted}, not `{text:.80}'",
        FailureKind.INPUT_REJECTED,
    )
