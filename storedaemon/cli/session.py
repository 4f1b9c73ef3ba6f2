# SPDX-License-Identifier: GPL-3.0-or-later
"""What every command that talks to a daemon begins with: which socket, and a connection."""

import contextlib
import os
from argparse import Namespace
from collections.abc import AsyncIterator

from storedaemon.cli.parser import SOCKET_VARIABLE
from storedaemon.client.client import Client, connect
from storedaemon.client.errors import ConnectionFailedError
from storedaemon.config import native_socket
from storedaemon.option_table import DEFAULT_STATE
from storedaemon.version import VERSION


def socket_path(options: Namespace) -> str:
    """Choose the socket: option, variable, then that of the system's daemon."""
    state = os.environ.get("GUIX_STATE_DIRECTORY") or DEFAULT_STATE
    return options.socket or os.environ.get(SOCKET_VARIABLE) or native_socket(state)


@contextlib.asynccontextmanager
async def connected(options: Namespace) -> AsyncIterator[Client]:
    """Connect to the daemon.

    Raises:
        ConnectionFailedError: Says which socket was tried, and what to do.
    """
    path = socket_path(options)
    reached = False
    try:
        async with connect(path, f"storedaemon {VERSION}") as client:
            reached = True
            yield client
    except ConnectionFailedError as error:
        if reached:
            raise
        raise ConnectionFailedError(
            f"{error.message}\n"
            "  Is the daemon running? Start it with 'storedaemon serve', or name its socket with"
            f" --socket or ${SOCKET_VARIABLE}."
        ) from error
