# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that do everything at once, and leave when nobody expects it.

Each has a seed of its own, so what it does depends on nothing but the seed and
the answers. What an answer should have been and was not is collected in
`Storm.wrong`. Entry point: `Storm.run`.
"""

import contextlib
import os
import random
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from builder.options import BuildMode
from store.derivations import (
    Derivation,
    Output,
    fill_output_paths,
    hash_derivation_modulo,
    parse_derivation,
    unparse_derivation,
)
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular, Symlink
from store.nar.writer import write
from store.paths import StoreDirectory, StorePath
from storedaemon.client.client import Client, connect
from storedaemon.client.errors import DaemonError
from storedaemon.descriptions import DerivationDescription
from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

SYSTEM = f"{os.uname().machine}-linux"
PATH = {"PATH": "/bin:/usr/bin"}
CHAINS, LINKS = 6, 4
GUIX_CLIENTS, NATIVE_CLIENTS = 5, 3


@dataclass(frozen=True, slots=True)
class Target:
    """A derivation to build.

    Attributes:
        path: The derivation.
        outputs: What it has when it is built.
        fails: Whether its builder, or that of an input, fails.
    """

    path: StorePath
    output: StorePath
    fails: bool


class Recipes:
    """Adds derivations that run the machine's shell, through one client."""

    def __init__(self, store: str, client: GuixClient) -> None:
        self._directory = StoreDirectory(store)
        self._client = client
        content = Path("/bin/sh").read_bytes()
        events = [Regular(b"", True, len(content)), Content(memoryview(content))]
        self._shell = StorePath(client.add_nar("sh", map(bytes, write(events))))
        self._known: dict[StorePath, Derivation] = {}

    def add(self, name: str, script: str, needs: Target | None = None) -> Target:
        """Add a derivation whose builder is a script."""
        inputs = {needs.path: ("out",)} if needs else {}
        bare = Derivation(
            {"out": Output("")}, inputs, (self._shell,), SYSTEM, self._shell, ("-c", script), PATH
        )
        drv = fill_output_paths(bare, name, self._directory, self._modulo)
        text = unparse_derivation(drv)
        path = StorePath(self._client.add_text(f"{name}.drv", text, sorted(drv.references)))
        self._known[path] = parse_derivation(text, self._directory, path)
        fails = "exit 3" in script or (needs is not None and needs.fails)
        return Target(path, StorePath(drv.outputs["out"].path), fails)

    def _modulo(self, path: StorePath) -> bytes:
        return hash_derivation_modulo(self._known[path], self._modulo)


def shared_targets(recipes: Recipes) -> list[Target]:
    """Add what several clients will want: chains, of which the last one breaks in the middle."""
    targets = []
    for chain in range(CHAINS):
        last: Target | None = None
        for link in range(LINKS):
            broken = chain == CHAINS - 1 and link == LINKS // 2
            end = "exit 3" if broken else f"cat {last.output if last else '/dev/null'} > $out"
            last = recipes.add(
                f"chain-{chain}-{link}",
                f"echo {chain} {link}; sleep 0.2; {end}; echo x >> $out",
                last,
            )
            targets.append(last)
    return targets


@dataclass
class Storm:
    """Clients against one daemon, for some time.

    Attributes:
        wrong: Answers that should have been others.
        done: How often each thing was done.
    """

    daemon: RunningDaemon
    scratch: Path
    seconds: float
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    targets: list[Target] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _deadline: float = 0

    def run(self) -> None:
        """Let all clients do as they like until the time is over."""
        with GuixClient(self.daemon.guix_socket) as client:
            # As long as this client is connected, what it added is no garbage.
            self.targets = shared_targets(Recipes(self.daemon.store, client))
            self._deadline = time.monotonic() + self.seconds
            kinds: list[Callable[[int], None]] = [self._guix] * GUIX_CLIENTS
            kinds += [self._native] * NATIVE_CLIENTS + [self._collect]
            threads = [
                threading.Thread(target=self._judged, args=(kind, seed), daemon=True)
                for seed, kind in enumerate(kinds)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(self.seconds + 60)
                if thread.is_alive():
                    self.wrong.append(f"{thread.name} waits for an answer")

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._deadline

    def note(self, what: str) -> None:
        """Count what was done."""
        with self._lock:
            self.done[what] += 1

    def _judged(self, kind: Callable[[int], None], seed: int) -> None:
        try:
            kind(seed)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test must fail with it
            self.wrong.append("".join(traceback.format_exception(error)))

    def _guix(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self.over:
            GuixVisit(self, rng).run()

    def _native(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self.over:
            trio.run(NativeVisit(self, rng).run)

    def _collect(self, seed: int) -> None:
        """Collect garbage now and then: all of it, or some, or go away meanwhile."""
        rng = random.Random(seed)
        while not self.over:
            time.sleep(rng.random())
            with GuixClient(self.daemon.guix_socket) as client:
                client.socket.settimeout(60)
                limit = rng.choice([2**64 - 1, 2**64 - 1, 100_000])
                wish = m.CollectGarbage(m.GarbageAction.DELETE_DEAD, (), False, limit)
                if rng.random() < 0.3:
                    client.send_only(wish)
                    time.sleep(rng.random() * 0.05)
                    self.note("left: collection")
                else:
                    client.call(wish)
                    self.note("collection")


class GuixVisit:
    """One connection of a Guix client."""

    def __init__(self, storm: Storm, rng: random.Random) -> None:
        self._storm = storm
        self._rng = rng
        self._items: list[str] = []

    def run(self) -> None:
        """Do some things, and leave in some way."""
        if self._rng.random() < 0.2:
            self._leave_within_handshake()
            return
        with GuixClient(self._storm.daemon.guix_socket) as client:
            client.socket.settimeout(60)
            client.set_options(build_verbosity=self._rng.choice([0, 1]), keep_going=True)
            recipes = Recipes(self._storm.daemon.store, client)
            for _ in range(self._rng.randrange(1, 12)):
                if self._storm.over:
                    return
                self._do_something(client, recipes)
            self._leave(client, recipes)

    def _do_something(self, client: GuixClient, recipes: Recipes) -> None:
        rng = self._rng
        actions: dict[str, Callable[[], None]] = {
            "text": lambda: self._add_text(client),
            "tree": lambda: self._add_tree(client),
            "queries": lambda: self._ask(client),
            "shared build": lambda: self._build(client, rng.choice(self._storm.targets)),
            "own build": lambda: self._build(client, self._own(recipes)),
        }
        name = rng.choices(list(actions), [4, 4, 6, 2, 2])[0]
        actions[name]()
        self._storm.note(name)

    def _add_text(self, client: GuixClient) -> None:
        references = self._rng.sample(self._items, min(len(self._items), self._rng.randrange(3)))
        text = f"{self._rng.randrange(300)} {' '.join(references)}"
        self._items.append(client.add_text("text", text.encode(), references))

    def _add_tree(self, client: GuixClient) -> None:
        self._items.append(client.add_nar("tree", write(tree(self._rng))))

    def _ask(self, client: GuixClient) -> None:
        for item in self._items:
            if not client.is_valid(item):
                self._storm.wrong.append(f"{item} is not valid any more")
        for item in self._items[:3]:
            client.path_info(item)
            client.references(item)
            client.referrers(item)
        client.valid_paths(self._items)
        if self._rng.random() < 0.1:
            client.all_valid_paths()

    def _own(self, recipes: Recipes) -> Target:
        end = "exit 3" if self._rng.random() < 0.2 else "mkdir $out; ln -s $out $out/self"
        return recipes.add("own", f"echo {self._rng.randrange(10**9)}; {end}")

    def _build(self, client: GuixClient, target: Target) -> None:
        failed = ""
        try:
            client.build(target.path)
        except RequestFailedError as error:
            failed = error.message or "no message"
        if bool(failed) != target.fails:
            self._storm.wrong.append(f"{target}: {failed or 'built'}")
        if client.is_valid(target.output) == target.fails:
            self._storm.wrong.append(f"{target}: its output's validity is wrong")

    # Leaving

    def _leave_within_handshake(self) -> None:
        whole = bytes.fromhex("6378696e00000000") + (0x164).to_bytes(8, "little") + bytes(16)
        with self._storm.daemon.connect_guix() as sock:
            sock.sendall(whole[: self._rng.randrange(len(whole) + 1)])
        self._storm.note("left within the handshake")

    def _leave(self, client: GuixClient, recipes: Recipes) -> None:
        how = self._rng.choice(["in order", "request", "body", "build", "unread"])
        if how == "request":
            client.socket.sendall((26).to_bytes(8, "little") + (60).to_bytes(8, "little") + b"/gnu")
        elif how == "body":
            self._send_half_a_body(client)
        elif how == "build":
            target = self._rng.choice([self._own(recipes), *self._storm.targets])
            client.send_only(m.BuildPaths((target.path,), BuildMode.NORMAL))
            time.sleep(self._rng.random() * 0.3)
        elif how == "unread":
            client.send_only(m.QueryAllValidPaths())
            client.socket.shutdown(socket.SHUT_RD)
        self._storm.note(f"left: {how}")

    def _send_half_a_body(self, client: GuixClient) -> None:
        client.send_only(m.AddToStore("never", self._rng.random() < 0.5, "sha256"))
        whole = b"".join(map(bytes, write(tree(self._rng))))
        client.socket.sendall(whole[: self._rng.randrange(len(whole))])


class NativeVisit:
    """One connection of a native client."""

    def __init__(self, storm: Storm, rng: random.Random) -> None:
        self._storm = storm
        self._rng = rng
        self._items: list[StorePath] = []

    async def run(self) -> None:
        """Do some things side by side, and leave at any time."""
        patience = self._rng.choice([0.01, 0.1, 0.5, 60])
        with trio.move_on_after(patience) as scope:
            async with connect(self._storm.daemon.native_socket) as client:
                builder = await client.add_executable("sh", Path("/bin/sh").read_bytes())
                for _ in range(self._rng.randrange(1, 8)):
                    if self._storm.over:
                        return
                    async with trio.open_nursery() as nursery:
                        for _ in range(self._rng.randrange(1, 4)):
                            nursery.start_soon(self._do_something, client, builder)
        self._storm.note("left: native, early" if scope.cancelled_caught else "left: native")

    async def _do_something(self, client: Client, builder: StorePath) -> None:
        action = self._rng.choices(
            [self._add, self._ask, self._build_shared, self._build_own], [4, 4, 2, 2]
        )[0]
        await action(client, builder)
        self._storm.note(f"native {action.__name__}")

    async def _add(self, client: Client, _builder: StorePath) -> None:
        if self._rng.random() < 0.5:
            text = str(self._rng.randrange(300)).encode()
            self._items.append(await client.add_text("text", text, self._items[-2:]))
        else:
            source = self._storm.scratch / f"tree-{self._rng.randrange(4)}"
            self._items.append(await client.add_path(str(source), "tree"))

    async def _ask(self, client: Client, _builder: StorePath) -> None:
        for item in list(self._items):
            if not await client.is_valid(item):
                self._storm.wrong.append(f"{item} is not valid any more")
        await client.closure(self._items)
        await client.status()
        await client.goals()

    async def _build_shared(self, client: Client, _builder: StorePath) -> None:
        target = self._rng.choice(self._storm.targets)
        await self._build(client, target.path, fails=target.fails)

    async def _build_own(self, client: Client, builder: StorePath) -> None:
        fails = self._rng.random() < 0.2
        end = "exit 3" if fails else "echo x > $out"
        script = f"echo {self._rng.randrange(10**9)}; sleep 0.1; {end}"
        description = DerivationDescription(
            "own", builder, args=("-c", script), env=PATH, sources=(builder,)
        )
        path, _ = await client.add_derivation(description)
        await self._build(client, path, fails=fails)

    async def _build(self, client: Client, path: StorePath, *, fails: bool) -> None:
        failed = ""
        try:
            async with client.build([path]) as build:
                async for _ in build:
                    pass
                await build.outputs()
        except DaemonError as error:
            failed = str(error) or "no message"
        if bool(failed) != fails:
            self._storm.wrong.append(f"{path}: {failed or 'built'}")


def tree(rng: random.Random) -> Iterator[NarEvent]:
    """Describe a small tree of files, of which some are the same as in other trees."""
    yield Directory(b"")
    for number in range(rng.randrange(6)):
        if rng.random() < 0.2:
            yield Symlink(b"%d" % number, b"0")
            continue
        size = rng.choice([0, 1, 100, 5000, 70_000, 400_000])
        yield Regular(b"%d" % number, rng.random() < 0.5, size)
        if size:
            yield Content(memoryview(random.Random(rng.randrange(3)).randbytes(size)))
    yield DirectoryEnd()


def write_trees(scratch: Path) -> None:
    """Make the directories that native clients add."""
    for number in range(4):
        directory = scratch / f"tree-{number}" / "sub"
        directory.mkdir(parents=True)
        (directory / "large").write_bytes(random.Random(number).randbytes(300_000))
        with contextlib.suppress(FileExistsError):
            (directory.parent / "link").symlink_to("sub/large")
