# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on a real store, with the helpers, the database and the scheduler of a daemon."""

import os
import pwd
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio

from builder.events import BuildEvent, BuildLog
from builder.options import BuildMode, Client
from locker.aio import AsyncChannel
from locker.client import Locker
from locker.messages import CODEC
from reaper.monitor import ProcessMonitor
from store.derivations import Derivation, Output
from store.errors import InvalidPathError, NotValidError, StoreError
from store.hashes import Digest, HashAlgorithm
from store.nar.dump import dump
from store.paths import StorePath
from storedaemon.basics import open_basics
from storedaemon.config import COMMAND_LINE, Source, make_config
from storedaemon.directories import prepare
from storedaemon.helpers import start_helpers
from storedaemon.operations import (
    additions,
    builds,
    info,
    maintenance,
    options,
    queries,
    roots,
    substitutes,
)
from storedaemon.parts import HelperClients, assemble
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.session_options import SessionOptions
from storedaemon.sockets import Dialect

ABSENT = "0" * 32 + "-absent"


@asynccontextmanager
async def running(base: Path) -> AsyncIterator[Services]:
    """Assemble a daemon's services on a new store, without listeners."""
    programs = [path for path in ("/bin", "/usr", "/lib", "/lib64") if Path(path).exists()]
    values = {"store": "store", "state": "state", "chroot-directory": programs}
    config = make_config([Source(COMMAND_LINE, values, str(base))])
    prepare(config.layout, "")
    helpers = start_helpers(1)
    monitor = ProcessMonitor()
    processes = [monitor.register(helper.pid) for _, helper in helpers.named()]
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        clients = HelperClients.of(helpers, monitor)
        locker = Locker(AsyncChannel(helpers.locker.socket, CODEC))
        async with trio.open_nursery() as parts, AsyncExitStack() as stack:
            parts.start_soon(locker.run)
            for _, task in clients.tasks():
                parts.start_soon(task)
            basics = await open_basics(config, locker, monitor, {}, stack)
            services = await assemble(basics, clients, stack)
            async with trio.open_nursery() as support:
                await support.start(services.building.cleaner.run)
                async with trio.open_nursery() as building:
                    await building.start(services.building.run)
                    yield services
                    building.cancel_scope.cancel()
                support.cancel_scope.cancel()
            parts.cancel_scope.cancel()
        helpers.close()
        for process in processes:
            await process.wait()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    """Everything that operations work with."""
    async with running(tmp_path) as made:
        yield made


def new_session(
    services: Services, number: int = 1, *, trusted: bool = True, uid: int | None = 0
) -> Session:
    """A session of some client."""
    client = Client(number, os.getpid(), uid, uid, "somebody", trusted)
    log = structlog.get_logger()
    return Session(client, Dialect.NATIVE, log, services.temp_roots.session())


@pytest.fixture
def session(services: Services) -> Session:
    """The session of a trusted client."""
    return new_session(services)


@pytest.fixture
def stranger(services: Services) -> Session:
    """The session of a client that nobody trusts."""
    return new_session(services, 2, trusted=False, uid=4711)


async def add(services: Services, session: Session, name: str, *references: str) -> StorePath:
    """Add a text."""
    return await additions.add_text(services, session, name, name.encode(), references)


async def ignore(_event: BuildEvent) -> None:
    """Take no notice."""


async def ensure_path(services: Services, session: Session, path: str) -> None:
    """See that an item is valid, whatever is said on the way."""
    await builds.ensure_path(services, session, path, ignore)


# Queries


async def test_what_was_added_is_valid_and_described(services: Services, session: Session):
    """An item, its references and its referrers are there at once."""
    one = await add(services, session, "one")
    two = await add(services, session, "two", one)
    assert await queries.is_valid_path(services, session, one)
    assert await queries.query_references(services, session, two) == [one]
    assert await queries.query_referrers(services, session, one) == [two]
    found = await queries.query_path_info(services, session, two)
    assert (found.path, found.references) == (two, frozenset([one]))
    assert await queries.query_path_hash(services, session, two) == found.nar_hash
    assert await queries.query_deriver(services, session, two) is None
    assert await queries.query_valid_derivers(services, session, two) == []
    assert await queries.query_all_valid_paths(services, session) == sorted([one, two])
    assert await queries.query_closure(services, session, [two]) == sorted([one, two])


async def test_an_absent_item_is_no_error_where_the_question_is_whether(
    services: Services, session: Session
):
    """A name that no item can have is just not valid, as in the reference."""
    store = services.layout.store
    for name in (ABSENT, "short", "x" * 300, ".links"):
        assert not await queries.is_valid_path(services, session, f"{store}/{name}")
        assert await queries.query_referrers(services, session, f"{store}/{name}") == []


async def test_an_absent_item_is_an_error_where_it_is_described(
    services: Services, session: Session
):
    """The words are those that Guix's clients match."""
    path = f"{services.layout.store}/{ABSENT}"
    for query in (
        queries.query_path_info,
        queries.query_path_hash,
        queries.query_references,
        queries.query_deriver,
        queries.query_derivation_outputs,
        queries.query_derivation_output_names,
    ):
        with pytest.raises(NotValidError) as caught:
            await query(services, session, path)
        assert caught.value.message == f"path `{path}' is not valid"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "STORE",
        "STORE/",
        "STORE/a/b",
        "STORE/..",
        "STOREx/y",
        "STORE/\udcff",
    ],
)
async def test_paths_elsewhere_are_refused(services: Services, session: Session, path: str):
    """A path outside the store, below an item, or of other than ASCII is an error by name."""
    path = path.replace("STORE", services.layout.store)
    for query in (
        queries.is_valid_path,
        queries.query_path_info,
        queries.query_referrers,
        queries.query_valid_derivers,
        ensure_path,
    ):
        with pytest.raises(InvalidPathError) as caught:
            await query(services, session, path)
        assert caught.value.message == f"path `{path}' is not in the store"


async def test_many_paths_are_answered_as_a_few_are(services: Services, session: Session):
    """A long list goes to a thread; the answer is as sorted and complete as a short one's."""
    there = [await add(services, session, f"item-{number}") for number in range(5)]
    absent = [f"{services.layout.store}/{'0' * 32}-{number}" for number in range(500)]
    few = await queries.query_valid_paths(services, session, [*there, absent[0]])
    many = await queries.query_valid_paths(services, session, [*absent, *there, *there])
    assert few == many == sorted(there)


async def test_hash_parts_lead_to_items(services: Services, session: Session):
    """Found, absent, and text that can be no hash part."""
    path = await add(services, session, "item")
    part = path.removeprefix(f"{services.layout.store}/")[:32]
    assert await queries.query_path_from_hash_part(services, session, part) == path
    assert await queries.query_path_from_hash_part(services, session, "0" * 32) is None
    assert await queries.query_path_from_hash_part(services, session, "\udcff" * 32) is None
    with pytest.raises(InvalidPathError, match="invalid hash part"):
        await queries.query_path_from_hash_part(services, session, "short")


# Additions and roots


async def test_what_a_session_adds_it_keeps(services: Services, session: Session):
    """An added item is a temporary root until the session ends."""
    path = await add(services, session, "mine")
    other = f"{services.layout.store}/{ABSENT}"
    await roots.add_temp_root(services, session, other)
    assert {path, other} <= services.temp_roots.live()
    session.close()
    assert not services.temp_roots.live() & {path, other}


async def test_a_body_becomes_an_item_when_it_is_committed(
    services: Services, session: Session, tmp_path: Path
):
    """A flat addition is named after the file's own hash."""
    (tmp_path / "file").write_bytes(b"contents")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        archive = b"".join(dump(fd, "file"))
    finally:
        os.close(fd)
    async with additions.receiving(services, session, "sha256", recursive=False) as addition:
        assert addition.feed(memoryview(archive)) == len(archive)
        path = await additions.commit(services, session, addition, "file")
    assert Path(path).read_bytes() == b"contents"
    digest = Digest.parse(
        HashAlgorithm.SHA256, "d1b2a59fbea7e20077af9f91b27e95e865061b270be03ff539ab3b73587882e8"
    )
    assert path == services.directory.fixed_output_path("file", False, digest)


async def test_what_is_not_committed_leaves_nothing(services: Services, session: Session):
    """A client that hangs up within a body leaves no trace."""
    async with additions.receiving(services, session, "sha256", recursive=True) as addition:
        addition.feed(memoryview(b"\x0d\0\0\0\0\0\0\0nix-archive-1"))
    private = [name for name in os.listdir(services.layout.store) if not name.startswith(".links")]
    left = [os.listdir(f"{services.layout.store}/{name}") for name in private]
    assert left == [[]]
    assert await queries.query_all_valid_paths(services, session) == []


async def test_bad_names_algorithms_and_references_are_refused(
    services: Services, session: Session
):
    """Each error names what was wrong, and nothing is added."""
    with pytest.raises(InvalidPathError, match="invalid character"):
        await add(services, session, "a/b")
    with pytest.raises(StoreError, match="unknown hash type `crc32'"):
        async with additions.receiving(services, session, "crc32", recursive=False):
            pass
    with pytest.raises(InvalidPathError, match="is not in the store"):
        await add(services, session, "text", "/etc/passwd")
    with pytest.raises(NotValidError):
        await add(services, session, "text", f"{services.layout.store}/{ABSENT}")
    assert await queries.query_all_valid_paths(services, session) == []


async def test_temporary_roots_must_lie_in_the_store(services: Services, session: Session):
    """Nothing that a collector could stumble over gets into its file; other names are fine."""
    for name in (f"{ABSENT}\0", f"{ABSENT}/x", "..", "b\u00e4r"):
        with pytest.raises(InvalidPathError):
            await roots.add_temp_root(services, session, f"{services.layout.store}/{name}")
    unfinished = f"{services.layout.store}/guix-XyZ123"
    await roots.add_temp_root(services, session, unfinished)
    assert unfinished in services.temp_roots.live()


async def test_an_indirect_root_is_a_link_to_the_users_link(
    services: Services, session: Session, tmp_path: Path
):
    """The link lies where collectors look."""
    link = await roots.add_indirect_root(services, session, f"{tmp_path}/result")
    assert os.readlink(link) == f"{tmp_path}/result"
    with pytest.raises(InvalidPathError, match="not an absolute path"):
        await roots.add_indirect_root(services, session, "result")
    await roots.sync_with_gc(services, session)


# Options


async def test_options_last_and_an_error_changes_nothing(services: Services, session: Session):
    """A message is taken whole or not at all."""
    wanted = SessionOptions(keep_going=True)
    await options.set_options(services, session, wanted, [("build-cores", "3")])
    assert (session.options.keep_going, session.options.cores) == (True, 3)
    before = session.options
    with pytest.raises(StoreError, match="should have an integer value"):
        await options.set_options(
            services, session, SessionOptions(), [("build-cores", "4"), ("build-timeout", "soon")]
        )
    assert session.options == before
    assert session.build_options(services.config, BuildMode.NORMAL).cores == 3


async def test_a_remote_client_says_who_it_is(services: Services):
    """Over TCP the user's name makes a profile directory, if there is such a user."""
    remote = new_session(services, trusted=False, uid=None)
    own = pwd.getpwuid(os.geteuid()).pw_name
    for name in (own, "no-such-user-x", "../../etc", "\0"):
        await options.set_options(services, remote, SessionOptions(), [("user-name", name)])
    assert os.listdir(f"{services.layout.profiles}/per-user") == [own]
    assert remote.options.settings == {}


async def test_a_local_clients_claim_is_only_kept(services: Services, stranger: Session):
    """The kernel knows better who is local."""
    await options.set_options(services, stranger, SessionOptions(), [("user-name", "root")])
    assert stranger.options.settings == {"untrusted-user-name": "root"}
    assert os.listdir(services.layout.profiles) == []


# Maintenance and information


async def test_failures_are_remembered_until_they_are_cleared(services: Services, session: Session):
    """One by one, or all with a star."""
    failed = [StorePath(f"{services.layout.store}/{'0' * 31}{digit}-x") for digit in "123"]
    await services.database.register_failed(failed)
    assert await maintenance.query_failed_paths(services, session) == failed
    await maintenance.clear_failed_paths(services, session, [failed[1]])
    assert await maintenance.query_failed_paths(services, session) == [failed[0], failed[2]]
    with pytest.raises(InvalidPathError):
        await maintenance.clear_failed_paths(services, session, ["/etc"])
    await maintenance.clear_failed_paths(services, session, ["*"])
    assert await maintenance.query_failed_paths(services, session) == []


async def test_without_the_program_substitutes_are_off(services: Services, session: Session):
    """Nobody is told of what cannot be had."""
    path = await add(services, session, "item")
    assert await substitutes.query_offers(services, session, [path], ignore) == {}
    assert await substitutes.query_substitute_urls(services, session) == []


async def test_builtin_builders_are_told_without_their_prefix(services: Services, session: Session):
    """The daemon downloads by itself, with or without guix."""
    assert "download" in await info.builtin_builders(services, session)


# Builds


async def test_what_is_valid_is_ensured_and_nothing_else(services: Services, session: Session):
    """The words are those that Guix's clients know."""
    await ensure_path(services, session, await add(services, session, "item"))
    path = f"{services.layout.store}/{ABSENT}"
    with pytest.raises(StoreError) as caught:
        await ensure_path(services, session, path)
    assert caught.value.message == f"path `{path}' does not exist and cannot be created"
    assert (caught.value.reason, caught.value.status) == ("cannot-create", 1)


async def test_repairing_needs_trust(services: Services, stranger: Session):
    """A client that is not trusted is told so."""
    with pytest.raises(StoreError, match="repairing is a privileged operation") as caught:
        await builds.build_paths(services, stranger, [], BuildMode.REPAIR, ignore)
    assert caught.value.reason == "not-privileged"


async def add_endless_build(services: Services, session: Session, base: Path) -> StorePath:
    """Add a derivation whose builder says that it runs, and then never ends."""
    script = base / "builder"
    script.write_text("#!/bin/sh\necho running\nexec /bin/sleep 1000\n")
    script.chmod(0o755)
    fd = os.open(base, os.O_RDONLY)
    try:
        async with additions.receiving(services, session, "sha256", recursive=True) as addition:
            addition.feed(memoryview(b"".join(dump(fd, "builder"))))
            source = await additions.commit(services, session, addition, "builder")
    finally:
        os.close(fd)
    system = services.settings.system
    derivation = Derivation({"out": Output("", "", "")}, {}, (source,), system, source, (), {})
    drv, _ = await services.writer.add_derivation(session.roots, "endless", derivation)
    return drv


async def test_a_build_is_cancelled_by_those_whose_it_is(
    services: Services, session: Session, stranger: Session, tmp_path: Path
):
    """A stranger may not end what another wants; a trusted client may, and all are told."""
    drv = await add_endless_build(services, session, tmp_path)
    runs = trio.Event()
    errors: list[StoreError] = []

    async def tell(event: BuildEvent) -> None:
        if isinstance(event, BuildLog):
            runs.set()

    async def want() -> None:
        try:
            await builds.build_paths(services, session, [drv], BuildMode.NORMAL, tell)
        except StoreError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want)
        with trio.fail_after(20):
            await runs.wait()
        (job,) = await info.list_jobs(services, stranger)
        assert (job.path, job.state) == (drv, "building")
        with pytest.raises(StoreError, match="others want") as caught:
            await builds.cancel_build(services, stranger, drv)
        assert caught.value.reason == "not-privileged"
        assert await builds.cancel_build(services, session, drv)
    (error,) = errors
    assert drv in error.message
    assert not await builds.cancel_build(services, session, drv)
