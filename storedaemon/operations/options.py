# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client sets for its session."""

import pwd
from collections.abc import Sequence

import trio

from storedaemon.basics import Basics
from storedaemon.session import Session
from storedaemon.session_options import SessionOptions, apply_settings

USER_NAME = "user-name"


async def set_options(
    basics: Basics,
    session: Session,
    options: SessionOptions,
    settings: Sequence[tuple[str, str]] = (),
) -> None:
    """Take over what a client sets; all of it or, on an error, nothing.

    Args:
        basics: The daemon's.
        session: The client's.
        options: The session's options with the flags that the message changes.
        settings: Names and values; what they may do depends on who sends them.

    Raises:
        StoreError: A value is not what its name needs (reason ``invalid-setting``).
    """
    kept: list[tuple[str, str]] = []
    for name, value in settings:
        # The kernel names a local user; a remote one can only claim a name, which
        # gets him no more than a directory that belongs to that user.
        if name == USER_NAME and session.client.uid is None:
            await _welcome(basics, session, value)
        else:
            kept.append((name, value))
    session.options = apply_settings(options, kept, trusted=session.client.trusted)


async def _welcome(basics: Basics, session: Session, name: str) -> None:
    user = await trio.to_thread.run_sync(_find_user, name)
    if user is None:
        session.log.info("user not found", user=name)
    else:
        basics.homes.ensure(user.pw_name, user.pw_uid)


def _find_user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):  # unknown; or NUL, or no UTF-8
        return None
