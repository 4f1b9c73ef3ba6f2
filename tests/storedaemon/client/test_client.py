# SPDX-License-Identifier: GPL-3.0-or-later
"""The client library against a real daemon."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from builder.events import BuildFailed, BuildLog, BuildStarted, BuildSucceeded, FailureKind
from store.errors import FileError
from store.hashes import HashAlgorithm
from storedaemon.client.builds import BuildWishes
from storedaemon.client.client import Client, connect
from storedaemon.client.errors import ConnectionFailedError, DaemonError
from storedaemon.descriptions import DerivationDescription


async def add_build(client: Client, name: str, script: str, **more: Any) -> tuple[str, Any]:
    """Add a derivation whose builder is a script."""
    builder = await client.add_executable(f"{name}.sh", f"#!/bin/sh\n{script}\n".encode())
    env = {"PATH": "/usr/bin:/bin"} | more.pop("env", {})
    description = DerivationDescription(name, builder, env=env, sources=(builder,), **more)
    return await client.add_derivation(description)


async def test_items_are_added_and_found_again(daemon: Any, tmp_path: Path):
    """Files, trees and texts go in; what is known of them comes out."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "big").write_bytes(os.urandom(3 << 20))
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o755)
    (tree / "link").symlink_to("sub/big")
    async with connect(daemon.native_socket) as client:
        assert client.store.path == daemon.store
        assert client.daemon.trusted
        await client.ping()
        item = await client.add_path(str(tree), "tree")
        assert (Path(item) / "sub" / "big").read_bytes() == (tree / "sub" / "big").read_bytes()
        assert os.access(Path(item) / "run", os.X_OK)
        assert (Path(item) / "link").readlink() == Path("sub/big")
        flat = await client.add_path(
            str(tree / "run"), "run", recursive=False, algorithm=HashAlgorithm.SHA512
        )
        assert Path(flat).stat().st_mode & 0o111 == 0
        text = await client.add_text("text", b"refers", [item, flat])
        info = await client.path_info(text)
        assert info.references == {item, flat}
        assert info.nar_hash.algorithm is HashAlgorithm.SHA256
        assert await client.references(text) == sorted([item, flat])
        assert await client.referrers(item) == [text]
        assert await client.closure([text]) == sorted([item, flat, text])
        assert await client.valid_paths([text, f"{text}x"]) == [text]
        assert await client.is_valid(text)
        assert await client.path_from_hash_part(Path(text).name[:32]) == text
        await client.add_temporary_root(text)
        assert (await client.status())["sessions"] == 1


async def test_long_lists_arrive_whole(daemon: Any):
    """A closure longer than a message comes in parts, in order."""
    async with connect(daemon.native_socket) as client:
        texts = [await client.add_text(f"t{'x' * 150}-{i}", b"", []) for i in range(400)]
        whole = await client.add_text("all", b"", texts)
        assert await client.references(whole) == sorted(texts)
        assert await client.closure([whole]) == sorted([*texts, whole])


async def test_builds_are_followed(building_daemon: Any):
    """Events come as objects, then the outputs; the log can be read again."""
    async with connect(building_daemon.native_socket) as client:
        drv, outputs = await add_build(client, "hello", "echo on my way; echo hello > $out")
        async with client.build([drv]) as build:
            events = [event async for event in build]
            assert await build.outputs() == {drv: outputs}
        kinds = [type(event) for event in events]
        assert kinds.index(BuildStarted) < kinds.index(BuildLog) < kinds.index(BuildSucceeded)
        async with client.log(drv) as log:
            assert b"".join([piece async for piece in log]) == b"on my way\n"
        async with client.log(outputs["out"]) as log:
            assert [piece async for piece in log] == [b"on my way\n"]
        assert await client.derivers(outputs["out"]) == [drv]
        assert await client.derivation_outputs(drv) == outputs


async def test_a_failed_build_raises_after_its_events(building_daemon: Any):
    """Whoever does not look at events still learns that it failed."""
    async with connect(building_daemon.native_socket) as client:
        drv, _ = await add_build(client, "bad", "exit 1")
        async with client.build([drv]) as build:
            events = [event async for event in build]
            with pytest.raises(DaemonError) as caught:
                await build.outputs()
        assert caught.value.reason == FailureKind.PERMANENT
        assert caught.value.status == 100
        (failed,) = (event for event in events if isinstance(event, BuildFailed))
        assert failed.kind is FailureKind.PERMANENT


async def test_leaving_a_build_ends_it(building_daemon: Any):
    """The context's end withdraws the wish; the connection goes on."""
    async with connect(building_daemon.native_socket) as client:
        drv, _ = await add_build(client, "slow", "echo on; while :; do read x; done </dev/zero")
        async with client.build([drv]) as build:
            async for event in build:
                if isinstance(event, BuildLog):
                    (goal,) = await client.goals()
                    assert (goal.drv, goal.state) == (drv, "building")
                    break
        while await client.goals():
            await trio.lowlevel.checkpoint()
        assert not await client.cancel_build(drv)


async def test_tasks_share_a_connection(building_daemon: Any, tmp_path: Path):
    """Builds, additions and questions of many tasks run side by side and do not mix."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(4 << 20))
    results: list[Any] = []
    async with connect(building_daemon.native_socket) as client:

        async def build(number: int) -> None:
            drv, outputs = await add_build(client, f"b{number}", f"echo {number} > $out")
            async with client.build([drv], BuildWishes(timeout=60)) as built:
                async for _ in built:
                    pass
                await built.outputs()
            results.append(Path(outputs["out"]).read_text() == f"{number}\n")

        async def add(number: int) -> None:
            item = await client.add_path(str(big), f"big-{number}")
            results.append(Path(item).stat().st_size == 4 << 20)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(build, number)
                nursery.start_soon(add, number)
    assert results == [True] * 12


async def test_errors_are_exceptions_and_the_connection_goes_on(daemon: Any, tmp_path: Path):
    """The daemon's errors, and those of reading local files."""
    os.mkfifo(tmp_path / "fifo")
    async with connect(daemon.native_socket) as client:
        with pytest.raises(DaemonError) as caught:
            await client.path_info(f"{daemon.store}/{'a' * 32}-x")
        assert caught.value.reason == "not-valid"
        with pytest.raises(DaemonError) as caught:
            await client.add_text("a b", b"")
        assert caught.value.reason == "invalid-path"
        with pytest.raises(FileError, match="fifo"):
            await client.add_path(str(tmp_path / "fifo"), "x")
        with pytest.raises(FileError, match="not a regular file"):
            await client.add_path(str(tmp_path), "x", recursive=False)
        with pytest.raises(OSError, match="No such file"):
            await client.add_path(str(tmp_path / "missing" / "x"), "x")
        await client.ping()


async def test_cancelling_a_request_leaves_the_connection_usable(building_daemon: Any):
    """A timeout around a request cancels that request."""
    async with connect(building_daemon.native_socket) as client:
        drv, _ = await add_build(client, "slow", "while :; do read x; done </dev/zero")
        with trio.move_on_after(0.3):
            async with client.build([drv]) as build:
                await build.outputs()
        await client.ping()


async def test_a_daemon_that_goes_away_is_an_error(daemon: Any):
    """Requests that wait, and those that come after, say that it is gone."""
    daemon.faults_expected = True
    async with connect(daemon.native_socket) as client:
        daemon.process.kill()
        daemon.process.wait()
        for _ in range(2):
            with pytest.raises(ConnectionFailedError):
                await client.ping()


@pytest.mark.usefixtures("no_leaks")
async def test_what_is_no_daemon_is_named(tmp_path: Path):
    """A missing socket, and a listener that hangs up, are told with the socket's name."""
    with pytest.raises(ConnectionFailedError, match=r"missing.*No such file"):
        async with connect(str(tmp_path / "missing")):
            pass
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "other"))
    listener.listen()

    async def answer(data: bytes) -> None:
        peer, _ = await listener.accept()
        with peer:
            await peer.send(data)
            await peer.recv(1000)

    with listener:
        for data in (b"", b"HTTP/1.1 400 Bad Request\r\n"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, data or b"\0")
                with pytest.raises(ConnectionFailedError):
                    async with connect(str(tmp_path / "other")):
                        pass


async def test_a_socket_may_have_a_long_name(daemon: Any, tmp_path: Path):
    """The kernel takes 107 characters; a directory may be deeper than that."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    (deep / "s").symlink_to(daemon.native_socket)
    async with connect(str(deep / "s")) as client:
        await client.ping()
