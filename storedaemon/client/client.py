# SPDX-License-Identifier: GPL-3.0-or-later
"""The client: a method for each method of the protocol.

    async with connect("/run/storedaemon") as client:
        path = await client.add_path("hello.c")
        async with client.build([drv]) as build:
            async for event in build:
                ...
            outputs = await build.outputs()

Every method raises `DaemonError` where the daemon answers with an error, and
`ConnectionFailedError` where the connection ends.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import trio

from builder.retries.records import Attempt, Flaky
from builder.substitution.offers import Offer
from store.content_sources.scanner import SourceStatus
from store.hashes import HashAlgorithm
from store.info import PathInfo
from store.paths import StoreDirectory, StorePath
from storedaemon.client import uploads
from storedaemon.client.builds import Build, BuildWishes, Outlook
from storedaemon.client.connection import Link, open_link
from storedaemon.client.exports import Export, listed_paths
from storedaemon.client.garbage import Collection, GarbageWishes, Reason, parse_reason
from storedaemon.client.maintenance import Optimisation, Verification
from storedaemon.client.steering import Steering
from storedaemon.descriptions import DerivationDescription
from storedaemon.wire.native.attempts import parse_attempt, parse_flaky
from storedaemon.wire.native.content_sources import parse_source
from storedaemon.wire.native.messages import Event, ServerHello
from storedaemon.wire.native.records import (
    description_map,
    parse_offer,
    parse_path_info,
)
from storedaemon.wire.native.statistics import Statistics, parse_statistics

_DEFAULT_WISHES = BuildWishes()
_ALL_GARBAGE = GarbageWishes()


@contextlib.asynccontextmanager
async def connect(path: str, name: str = "storedaemon-client") -> "AsyncIterator[Client]":
    """Connect to the daemon that listens on a socket.

    Args:
        path: The native socket's file name.
        name: What the daemon's log calls this client.

    Raises:
        ConnectionFailedError: Nobody listens, or the listener is no such daemon.
    """
    async with open_link(path, name) as link:
        yield Client(link)


class Client(Steering):
    """A connection to a daemon. Its methods may run side by side in several tasks.

    Args:
        link: The connection.

    Attributes:
        daemon: What the daemon says of itself.
        store: Its store directory.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.daemon: ServerHello = link.hello
        self.store = StoreDirectory(self.daemon.store)

    async def attempts(self, drv: str) -> list[Attempt]:
        """Return the attempts at building a derivation, the latest first."""
        reply = await self._call("attempts", path=drv)
        return [parse_attempt(each) for each in reply["attempts"]]

    async def flaky(self) -> list[Flaky]:
        """Return what has failed, and passed when the machine was quieter, the latest first."""
        return [parse_flaky(each) for each in (await self._call("flaky"))["flaky"]]

    async def content_sources(self) -> list[SourceStatus]:
        """Return a look at each content source of the daemon."""
        reply = await self._call("content-sources")
        return [parse_source(each) for each in reply["sources"]]

    async def statistics(self) -> Statistics:
        """Ask how the daemon's parts and caches do."""
        return parse_statistics(await self._call("stats"))

    async def ping(self) -> None:
        """Ask for nothing, and wait for the answer."""
        await self._call("ping")

    async def status(self) -> Mapping[str, Any]:
        """Ask how the daemon is; the keys are in `docs/protocol.md`."""
        return await self._call("status")

    async def is_valid(self, path: str) -> bool:
        """Ask whether an item is registered."""
        return (await self._call("is-valid", path=path))["valid"] is True

    async def valid_paths(self, paths: Iterable[str]) -> list[StorePath]:
        """Ask which of some items are registered."""
        return await self._paths("valid-paths", paths=list(paths))

    async def path_info(self, path: str) -> PathInfo:
        """Ask what is registered of an item."""
        return parse_path_info(await self._call("path-info", path=path))

    async def path_from_hash_part(self, hash_part: str) -> StorePath | None:
        """Ask for the item whose name begins with that hash."""
        path: StorePath | None = (await self._call("path-from-hash-part", hash=hash_part))["path"]
        return path

    async def references(self, path: str) -> list[StorePath]:
        """Ask for the items that an item refers to."""
        return await self._paths("references", path=path)

    async def referrers(self, path: str) -> list[StorePath]:
        """Ask for the items that refer to an item."""
        return await self._paths("referrers", path=path)

    async def closure(self, paths: Iterable[str]) -> list[StorePath]:
        """Ask for items and all that they refer to, however remotely."""
        return await self._paths("closure", paths=list(paths))

    async def derivers(self, path: str) -> list[StorePath]:
        """Ask for the registered derivations that have an item as output."""
        return await self._paths("derivers", path=path)

    async def derivation_outputs(self, drv: str) -> Mapping[str, StorePath]:
        """Ask for the outputs of a derivation, by name."""
        outputs: Mapping[str, StorePath] = (await self._call("derivation-outputs", path=drv))[
            "outputs"
        ]
        return outputs

    async def add_text(
        self, name: str, content: bytes, references: Iterable[str] = ()
    ) -> StorePath:
        """Add a text together with the items that it refers to."""
        params = {"name": name, "references": list(references)}
        return await self._add("add-text", params, [content])

    async def add_path(
        self,
        path: str,
        name: str,
        *,
        recursive: bool = True,
        algorithm: HashAlgorithm = HashAlgorithm.SHA256,
    ) -> StorePath:
        """Add a file, or a directory where `recursive` is true.

        Args:
            path: The local file or directory.
            name: The name of the item.
            recursive: Whether the item is addressed by the hash of its NAR form,
                which keeps the executable bit, or by that of its bytes.
            algorithm: The algorithm of that hash.

        Raises:
            OSError: The file cannot be read.
            FileError: It is of a kind that the store does not hold.
        """
        pieces = uploads.nar_of(path) if recursive else uploads.bytes_of(path)
        method = "recursive" if recursive else "flat"
        params: dict[str, Any] = {"name": name, "method": method, "algorithm": str(algorithm)}
        if not recursive:
            params["size"] = (await trio.Path(path).stat()).st_size
        return await self._add("add", params, pieces)

    async def add_executable(self, name: str, content: bytes) -> StorePath:
        """Add an executable file with that content."""
        params = {"name": name, "method": "recursive", "algorithm": str(HashAlgorithm.SHA256)}
        return await self._add("add", params, uploads.executable_nar(content))

    async def add_derivation(
        self, description: DerivationDescription
    ) -> tuple[StorePath, Mapping[str, StorePath]]:
        """Add a derivation; the daemon computes where its outputs go.

        Returns:
            The derivation, and its outputs by name.
        """
        result = await self._call("add-derivation", **description_map(description))
        return result["path"], result["outputs"]

    @contextlib.asynccontextmanager
    async def export(
        self, paths: Iterable[str], *, closure: bool = False, sign: bool = True
    ) -> AsyncIterator[Export]:
        """Export items, for `import_items` of another store's daemon, or ``guix archive``.

        Args:
            paths: The items.
            closure: Whether to export all that they refer to as well.
            sign: Whether the daemon's key vouches for them; without, nobody takes them in.
        """
        params = {"paths": list(paths), "closure": closure, "sign": sign}
        async with self._link.exchange("export", params) as exchange:
            yield Export(exchange)

    async def import_items(self, pieces: Iterable[uploads.Piece]) -> list[StorePath]:
        """Import items that another store exported.

        Args:
            pieces: The stream, cut anywhere; read in a thread.

        Returns:
            The items in order, with those that were there already.
        """
        paths: list[StorePath] = []
        async with self._link.exchange("import", {}) as exchange:
            await uploads.send_body(exchange, pieces)
            while (message := await exchange.next()) is not None:
                paths += listed_paths(message)
            paths += (await exchange.result())["paths"]
        return paths

    @contextlib.asynccontextmanager
    async def build(
        self, targets: Sequence[str], wishes: BuildWishes = _DEFAULT_WISHES
    ) -> AsyncIterator[Build]:
        """Have derivations built; leaving the context before the end withdraws the wish.

        Args:
            targets: Derivations, with ``!OUTPUT,…`` after them where not all are wanted.
            wishes: How to build.
        """
        params = {"targets": list(targets), **wishes.as_map()}
        async with self._link.exchange("build", params) as exchange:
            yield Build(exchange)

    async def substitutable(
        self, paths: Iterable[str], urls: str | None = None
    ) -> tuple[list[Offer], list[str]]:
        """Ask which of some items can be substituted.

        Args:
            paths: The items.
            urls: Where to look, with blanks between URLs, instead of where the daemon does.

        Returns:
            What is offered, and the URLs where was looked; none where substitutes are off.
        """
        params: dict[str, Any] = {"paths": list(paths)}
        if urls is not None:
            params["substitute-urls"] = urls
        lists, result = await self._lists("substitutable", params, ("offers",))
        return [parse_offer(offer) for offer in lists["offers"]], list(result["urls"])

    async def plan(self, targets: Sequence[str], wishes: BuildWishes = _DEFAULT_WISHES) -> Outlook:
        """Ask what `build` would do; only some wishes matter."""
        params = {"targets": list(targets), **wishes.as_map()}
        lists, _ = await self._lists("plan", params, ("builds", "offers", "impossible"))
        offers = tuple(parse_offer(offer) for offer in lists["offers"])
        return Outlook(tuple(lists["builds"]), offers, tuple(lists["impossible"]))

    async def add_root(self, link: str) -> None:
        """Let a symbolic link to an item keep that item, while the link exists."""
        await self._call("add-root", link=link)

    async def add_temporary_root(self, path: str) -> None:
        """Keep an item until the daemon ends this connection."""
        await self._call("add-temporary-root", path=path)

    async def roots(self) -> list[tuple[str, StorePath]]:
        """Ask for the links that keep items: each link's name, and the item."""
        found: list[Mapping[str, Any]] = []
        async with self._link.exchange("roots", {}) as exchange:
            while (message := await exchange.next()) is not None:
                if isinstance(message, Event) and message.event == "roots":
                    found += message.fields["roots"]
            found += (await exchange.result())["roots"]
        return [(root["link"], root["path"]) for root in found]

    async def live_paths(self) -> list[StorePath]:
        """Ask for the items that some root keeps."""
        return await self._paths("live")

    async def dead_paths(self) -> list[StorePath]:
        """Ask for what would go if all garbage were deleted."""
        return await self._paths("dead")

    async def why_alive(self, path: str) -> list[Reason]:
        """Ask which roots keep an item, and through which references."""
        reasons: list[Reason] = []
        async with self._link.exchange("why-alive", {"path": path}) as exchange:
            while (message := await exchange.next()) is not None:
                if isinstance(message, Event) and message.event == "reason":
                    reasons.append(parse_reason(message.fields))
            last = (await exchange.result())["reason"]
        return [*reasons, parse_reason(last)] if last else reasons

    @contextlib.asynccontextmanager
    async def collect_garbage(
        self, wishes: GarbageWishes = _ALL_GARBAGE
    ) -> AsyncIterator[Collection]:
        """Delete what no root keeps; leaving the context ends it between two items."""
        async with self._link.exchange("collect-garbage", wishes.as_map()) as exchange:
            yield Collection(exchange)

    @contextlib.asynccontextmanager
    async def verify(
        self, *, contents: bool = False, repair: bool = False
    ) -> AsyncIterator[Verification]:
        """Compare the store with its database; leaving the context ends it.

        Args:
            contents: Whether to hash all items.
            repair: Whether to substitute or build again what is damaged, which needs trust.
        """
        params = {"contents": contents, "repair": repair}
        async with self._link.exchange("verify", params) as exchange:
            yield Verification(exchange)

    @contextlib.asynccontextmanager
    async def repair(self, paths: Iterable[str]) -> AsyncIterator[Verification]:
        """Build items again that are not what was registered; leaving the context ends it."""
        async with self._link.exchange("repair", {"paths": list(paths)}) as exchange:
            yield Verification(exchange)

    @contextlib.asynccontextmanager
    async def optimise(self) -> AsyncIterator[Optimisation]:
        """Let equal files of all items share their contents; leaving the context ends it."""
        async with self._link.exchange("optimise", {}) as exchange:
            yield Optimisation(exchange)

    async def failed_paths(self) -> list[StorePath]:
        """Ask for the outputs whose builds are remembered as failed."""
        return await self._paths("failed-paths")

    async def clear_failed_paths(self, paths: Iterable[str] | None = None) -> None:
        """Forget that builds of outputs, or of derivations' outputs, failed; of all by default."""
        params = {} if paths is None else {"paths": list(paths)}
        await self._call("clear-failed-paths", **params)

    async def _add(
        self, method: str, params: Mapping[str, Any], pieces: Iterable[uploads.Piece]
    ) -> StorePath:
        async with self._link.exchange(method, params) as exchange:
            await uploads.send_body(exchange, pieces)
            path: StorePath = (await exchange.result())["path"]
            return path
