# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting the daemon: everything that must happen before there is an event loop or a thread.

The steps, in this order: checks and directories, listening sockets, helper
processes, the limits and names of this process; then, while the helpers come
up, the imports that the first reply needs; then the event loop. Whoever starts a
daemon and connects at once has to find the sockets, so nothing is imported before
they are there that they do not need; clients wait in line until the store is open.
Entry point: `main`.
"""

import gc
import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from store.errors import StoreError
from storedaemon.config import Config
from storedaemon.directories import prepare
from storedaemon.signals import EarlySignals
from storedaemon.sockets import Claim, Listener, inherited_listeners, open_listeners

if TYPE_CHECKING:
    from storedaemon.helpers import Helpers

# Nothing that the daemon makes is for a group or the world to write.
UMASK = 0o022


def main(config: Config, claims: Mapping[str, Claim] | None = None) -> int:
    """Serve until a signal, and return the exit code: 0 after a signal, otherwise 1.

    Args:
        config: What its owner chose.
        claims: Sockets that listen already, by addresses.
    """
    started = time.perf_counter()
    try:
        return _main(config, claims, started)
    except StoreError as error:
        sys.stderr.write(f"storedaemon: error: {error.message}\n")
    except OSError as error:
        sys.stderr.write(f"storedaemon: error: {error}\n")
    return 1


def _main(config: Config, claims: Mapping[str, Claim] | None, started: float) -> int:
    os.umask(UMASK)
    os.chdir("/")
    prepare(config.layout, config.build_users_group)
    signals = EarlySignals()
    listeners = _listeners(config, claims)
    try:
        from storedaemon.helpers import start_helpers  # noqa: PLC0415 - see above

        helpers = start_helpers(config.workers)
        try:
            return _run(config, listeners, helpers, signals, started)
        finally:
            helpers.close()
    finally:
        for listener in listeners:
            listener.close()


def _listeners(config: Config, claims: Mapping[str, Claim] | None) -> tuple[Listener, ...]:
    inherited = inherited_listeners(os.environ, os.getpid())
    return inherited or open_listeners(
        config.guix_addresses,
        config.native_addresses,
        take_over=config.take_over_sockets,
        claims=claims,
    )


def _run(
    config: Config,
    listeners: tuple[Listener, ...],
    helpers: "Helpers",
    signals: EarlySignals,
    started: float,
) -> int:
    import prctl  # noqa: PLC0415 - see above

    from builder.memory.score import protect  # noqa: PLC0415 - see above
    from storedaemon.notify import Notifier  # noqa: PLC0415 - see above

    prctl.set_name("storedaemon")
    _raise_descriptor_limit()
    for pid in (os.getpid(), *(helper.pid for _, helper in helpers.named())):
        protect(pid)
    notifier = Notifier.from_environment(os.environ)
    # Importing takes a while, which the helpers need to come up anyway. What it makes stays
    # for good, so the collector need not look at it; the daemon enables it when all is imported.
    gc.disable()
    from storedaemon.daemon import Surroundings, run  # noqa: PLC0415
    from storedaemon.logs import configure  # noqa: PLC0415

    log = configure(config.log_level, config.log_format)
    return run(Surroundings(config, listeners, helpers, signals, notifier, log, started))


def _raise_descriptor_limit() -> None:
    """Let this process have many clients; builds get the limits that we were started with."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
