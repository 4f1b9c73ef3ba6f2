# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of substitutes, and what a client may say about where they come from. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from store.paths import StorePath

TRUSTED_URLS = "substitute-urls"
UNTRUSTED_URLS = "untrusted-substitute-urls"
TRACES = "print-extended-build-trace"

# `guix substitute` reads these, and prefers an untrusted client's to the owner's. It is handed
# nothing else, so that clients who differ in other settings can share a process.
_QUERY_SETTINGS = (TRUSTED_URLS, UNTRUSTED_URLS, "discover", "locale", "untrusted-locale")
_DOWNLOAD_SETTINGS = (
    *_QUERY_SETTINGS,
    TRACES,
    f"untrusted-{TRACES}",
    "terminal-columns",
    "untrusted-terminal-columns",
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What substituters say of an item; sizes are in bytes, 0 if unknown.

    Attributes:
        path: The item.
        deriver: The derivation that made it, if they say so.
        references: What it refers to; may hold the item itself.
        download_size: How much has to be downloaded.
        nar_size: Bytes of the item's NAR form.
    """

    path: StorePath
    deriver: StorePath | None
    references: frozenset[StorePath]
    download_size: int
    nar_size: int


@dataclass(frozen=True, slots=True)
class Sources:
    """Where substitutes come from, and how that is told: settings for ``guix substitute``.

    Two requests with equal sources share queries, answers and processes.

    Attributes:
        query: The settings that matter for what there is.
        download: Those and what matters for how a download is shown.
    """

    query: tuple[tuple[str, str], ...] = ()
    download: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> "Sources":
        """Pick what matters of a session's settings."""
        return cls(_pick(settings, _QUERY_SETTINGS), _pick(settings, _DOWNLOAD_SETTINGS))


def substitute_urls(settings: Mapping[str, str]) -> list[str]:
    """Return the URLs that settings name; a client's own win, even those of an untrusted one."""
    return (settings.get(UNTRUSTED_URLS) or settings.get(TRUSTED_URLS, "")).split()


def _pick(settings: Mapping[str, str], names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, settings[name]) for name in names if name in settings)
