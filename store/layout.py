# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything of one store lies on disk.

The names are those the C++ daemon uses, so that both can serve the same store.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one store; every field is an absolute path without a final slash.

    Attributes:
        store: The store directory, such as ``/gnu/store``. It is part of every
            store path, and so of every hash.
        state: Roots, profiles, the garbage collector's lock: ``/var/guix``.
        database: The directory that holds ``db.sqlite``: ``/var/guix/db``.
        logs: Build logs lie under ``drvs/`` here: ``/var/log/guix``.
        configuration: Keys and the access-control list: ``/etc/guix``.
    """

    store: str
    state: str
    database: str
    logs: str
    configuration: str

    @classmethod
    def under(cls, store: str, state: str) -> "Layout":
        """Make the usual layout for a store and a state directory that lie anywhere."""
        return cls(store, state, f"{state}/db", f"{state}/log", f"{state}/etc")

    def __post_init__(self) -> None:
        for name in self.__slots__:
            path = getattr(self, name)
            normal = PurePosixPath(path)
            if not normal.is_absolute() or ".." in normal.parts or str(normal) != path:
                msg = f"the {name} directory must be an absolute, plain path, not '{path}'"
                raise ValueError(msg)

    @property
    def links(self) -> str:
        """The directory of deduplicated files, each named by the hash of its NAR form."""
        return f"{self.store}/.links"

    @property
    def database_file(self) -> str:
        """The SQLite file that both daemons share."""
        return f"{self.database}/db.sqlite"

    @property
    def schema_file(self) -> str:
        """The file whose text is the number of the schema."""
        return f"{self.database}/schema"

    @property
    def big_lock(self) -> str:
        """Held shared by every daemon, and exclusively to change the schema."""
        return f"{self.database}/big-lock"

    @property
    def index_file(self) -> str:
        """Our own SQLite file beside the shared one: content index, attempts, statistics."""
        return f"{self.database}/storedaemon.sqlite"

    @property
    def by_hash(self) -> str:
        """Links to files, for builders, below directories named by the algorithm of a hash."""
        return f"{self.state}/content/by-hash"

    @property
    def dirlinks(self) -> str:
        """Links to directories, for builders, by the hash of their archive form."""
        return f"{self.state}/content/dirlinks"

    @property
    def gc_lock(self) -> str:
        """Held shared while temporary roots are made, exclusively by a collection."""
        return f"{self.state}/gc.lock"

    @property
    def temp_roots(self) -> str:
        """One file of temporary roots a daemon process."""
        return f"{self.state}/temproots"

    @property
    def gc_roots(self) -> str:
        """Symbolic links that keep items alive."""
        return f"{self.state}/gcroots"

    @property
    def profiles(self) -> str:
        """Users' profiles."""
        return f"{self.state}/profiles"

    @property
    def user_pool(self) -> str:
        """One lock file a build user, named by the user's number."""
        return f"{self.state}/userpool"
