# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling the service manager how the daemon fares (systemd's ``sd_notify`` protocol).

One datagram a state, to the socket that ``NOTIFY_SOCKET`` names. Entry point:
`Notifier.from_environment`.
"""

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends states to a service manager.

    Args:
        address: The manager's socket, where a leading ``@`` means an abstract
            name; empty when no manager asked, so that nothing is sent.
    """

    address: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Notifier":
        """Find the manager's socket in the environment."""
        return cls(environment.get("NOTIFY_SOCKET", ""))

    def ready(self) -> None:
        """Tell that clients are being served."""
        self.send("READY=1")

    def stopping(self) -> None:
        """Tell that the daemon is shutting down."""
        self.send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show a line in the manager's view of the service."""
        self.send("STATUS=" + text.replace("\n", " "))

    def send(self, state: str) -> None:
        """Send one state, such as ``READY=1``."""
        if not self.address.startswith(("/", "@")):
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        # A manager that is gone or busy must not harm what it manages.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.sendto(state.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, address)
