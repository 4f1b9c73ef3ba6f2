# SPDX-License-Identifier: GPL-3.0-or-later
"""One client's session, without regard to its dialect.

A session is made when a connection is accepted and ends with it; what it holds
beyond memory (temporary roots) is given back then. Entry point: `Session`.
"""

import time

from builder.options import BuildMode, BuildOptions, Client
from store.temproots import SessionRoots
from storedaemon.config import Config
from storedaemon.logs import Logger, RpcLog
from storedaemon.session_options import SessionOptions, build_options
from storedaemon.sockets import Dialect


class Session:
    """The state of one connection, from handshake to hang-up.

    Args:
        client: Who is served; its `session` number is the session's.
        dialect: What it speaks.
        log: A logger that bears the session's context.
        roots: What the session keeps alive; given up by `close`.
        log_rpcs: Whether each RPC is reported.

    Attributes:
        options: What the client set so far.
        operation: The RPC being served, for `ps`; empty between RPCs.
        since: When the session began, in seconds since the epoch.
    """

    __slots__ = ("client", "dialect", "log", "operation", "options", "roots", "rpc_log", "since")

    def __init__(
        self,
        client: Client,
        dialect: Dialect,
        log: Logger,
        roots: SessionRoots,
        *,
        log_rpcs: bool = False,
    ) -> None:
        self.client = client
        self.dialect = dialect
        self.log = log
        self.roots = roots
        self.rpc_log = RpcLog(log, enabled=log_rpcs)
        self.options = SessionOptions()
        self.operation = ""
        self.since = time.time()

    @property
    def id(self) -> int:
        """The number of the session, unique while the daemon runs."""
        return self.client.session

    def build_options(self, config: Config, mode: BuildMode) -> BuildOptions:
        """The options of a build this client asks for now."""
        return build_options(self.options, config, mode)

    def close(self) -> None:
        """Give up what the session keeps alive."""
        self.roots.close()
