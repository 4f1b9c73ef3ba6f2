# SPDX-License-Identifier: GPL-3.0-or-later
"""What all builds share. Entry point: `Workshop`."""

from dataclasses import dataclass, field
from functools import partial

from builder.builtins import Builtins
from builder.derivation_cache import DerivationCache
from builder.input_locks import InputLocks
from builder.jobserver.pool import Jobserver
from builder.logfile import LogFiles
from builder.memory.meters import Meters
from builder.options import BuildSettings
from builder.outputs.cleaning import Cleaner
from builder.outputs.keeping import Keeper
from builder.outputs.lookup import ContentLookup
from builder.outputs.sealing import Sealer
from builder.plan import Host
from builder.spawner.client import Spawner
from builder.users import BuildUsers
from store.content_index import ContentIndex
from store.database import StoreDatabase
from store.layout import Layout
from store.paths import StoreDirectory


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all builds share.

    Attributes:
        layout: Where the store is.
        directory: The store's paths.
        settings: How this daemon builds.
        host: What matters of the machine.
        database: What is valid.
        derivations: Parsed derivations.
        spawner: Starts builders.
        sealer: Turns what they leave into store items.
        content_index: Which item has which content.
        lookup: Knows the contents of fixed outputs.
        cleaner: Deletes the rest.
        keeper: Keeps what users want to look at after a failure.
        users: Whom builders run as; None for the daemon's own user.
        logs: The logs of builds.
        builtins: How the builders are served that are part of the daemon.
        meters: Measure builders.
        input_locks: Keep what builders see; None where nobody needs it.
        jobserver: Lends them job tokens; None where there are none.
    """

    layout: Layout
    directory: StoreDirectory
    settings: BuildSettings
    host: Host
    database: StoreDatabase
    derivations: DerivationCache
    spawner: Spawner
    sealer: Sealer
    content_index: ContentIndex
    lookup: ContentLookup
    cleaner: Cleaner
    keeper: Keeper
    users: BuildUsers | None
    logs: LogFiles
    builtins: Builtins = field(default_factory=Builtins)
    meters: Meters = field(default_factory=partial(Meters, None))
    input_locks: InputLocks | None = None
    jobserver: Jobserver | None = None
