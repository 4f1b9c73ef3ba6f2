# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of one native request, which are not the session's. Entry point: `session_for`."""

import copy
from collections.abc import Mapping

from builder.substitution.offers import TRACES, TRUSTED_URLS, UNTRUSTED_URLS
from store.errors import StoreError
from storedaemon.session import Session
from storedaemon.session_options import MAX_NUMBER, RETRY_NUMBERS, SessionOptions
from storedaemon.sessions.native_call import Call

_MAX_URLS = 65_536


def session_for(call: Call) -> Session:
    """Give the session with the options of one request."""
    params = call.params

    def number(key: str) -> int | None:
        return params.optional_number(key, limit=MAX_NUMBER)

    rounds = number("rounds")
    session = copy.copy(call.session)
    session.options = SessionOptions(
        keep_failed=params.flag("keep-failed"),
        keep_going=params.flag("keep-going"),
        fallback=params.flag("fallback"),
        use_substitutes=params.flag("substitutes", default=True),
        cores=number("cores"),
        max_jobs=number("max-jobs"),
        timeout=number("timeout"),
        max_silent_time=number("max-silent-time"),
        repeat=None if rounds is None else max(rounds - 1, 0),
        use_offload=not params.flag("no-offload"),
        settings={**_settings(call), **_retry_settings(call)},
    )
    return session


def _settings(call: Call) -> dict[str, str]:
    # Progress comes in lines for programs, which become events.
    settings = {TRACES: "1"}
    if call.params.has("substitute-urls"):
        name = TRUSTED_URLS if call.session.client.trusted else UNTRUSTED_URLS
        settings[name] = call.params.text("substitute-urls", limit=_MAX_URLS)
    return settings


def _retry_settings(call: Call) -> Mapping[str, str]:
    """Give as settings what a request says of retries, which only those who are trusted may."""
    wishes = {
        setting: call.params.optional_number(setting.removeprefix("build-"), limit=MAX_NUMBER)
        for setting in RETRY_NUMBERS
    }
    said = {name: str(value) for name, value in wishes.items() if value is not None}
    if said and not call.session.client.trusted:
        raise StoreError(
            "only trusted users may say how builds are retried", reason="not-privileged"
        )
    return said
