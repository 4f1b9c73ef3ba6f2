# SPDX-License-Identifier: GPL-3.0-or-later
"""Store workers: real processes, real files of other users."""

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from locker.start import StartedHelper, start_helper
from store.hashes import Digest, HashAlgorithm
from store.layout import Layout
from store.nar.dump import dump
from store.nar.hash import nar_hash_of
from store.paths import StorePath, hash_part
from store.placing import place_path
from store.worker.client import StoreWorkers, WorkerError, seal_here
from store.worker.messages import FixedContent, OutputToSeal, SealedOutput, SealOutputs

BUILDER = 30_001 if os.geteuid() == 0 else os.geteuid()
BIG = bytes(range(256)) * 100


@pytest.fixture
def helpers() -> Iterator[list[StartedHelper]]:
    """Two worker processes."""
    helpers = [start_helper("store.worker") for _ in range(2)]
    yield helpers
    for helper in helpers:
        helper.socket.close()
        os.waitpid(helper.pid, 0)


@pytest.fixture
async def workers(
    helpers: list[StartedHelper], nursery: trio.Nursery
) -> AsyncIterator[StoreWorkers]:
    """A pool of two workers."""
    workers = StoreWorkers.from_helpers(helpers)
    await nursery.start(workers.run)
    yield workers
    workers.close()


@dataclass
class Bench:
    """A builder's directory beside a store, and what seals its outputs."""

    workers: StoreWorkers
    layout: Layout
    built: Path
    private: Path
    fds: dict[str, int]
    at_rest: bool

    def output(self, path: StorePath, **options: object) -> OutputToSeal:
        """Describe an output."""
        plain = OutputToSeal(path.rpartition("/")[2], path, BUILDER, None, copy=False)
        return replace(plain, **options)

    async def seal(
        self, *outputs: OutputToSeal, candidates: tuple[str, ...] = (), move: bool = True
    ) -> tuple[SealedOutput, ...]:
        """Seal outputs as a build would, and move them into the store."""
        request = SealOutputs("/store/x.drv", outputs, " ".join(candidates))
        sealed = seal_here(request, self.fds["built"]) if self.at_rest else None
        if sealed is None:
            sealed = await self.workers.seal_outputs(
                request,
                outputs_fd=self.fds["built"],
                private_fd=self.fds["private"],
                links_fd=self.fds["links"],
            )
        for output in outputs if move else ():
            source = self.private if output.copy else self.built
            place_path(f"{source}/{output.name}", f"{self.layout.store}/{output.name}")
        return sealed

    def give_to_builder(self) -> None:
        """Let everything built belong to the builder."""
        for below in self.built.rglob("*"):
            os.chown(below, BUILDER, -1, follow_symlinks=False)


@pytest.fixture(params=[False, True], ids=["disturbed", "at-rest"])
def bench(workers: StoreWorkers, layout: Layout, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A place where something was built; small things are sealed by the daemon or a worker."""
    built, private = Path(layout.store, "x.chroot"), Path(layout.store, "x.private")
    places = {"built": built, "private": private, "links": layout.links, "store": layout.store}
    built.mkdir()
    private.mkdir(0o700)
    fds = {name: os.open(path, os.O_RDONLY) for name, path in places.items()}
    yield Bench(workers, layout, built, private, fds, request.param)
    for fd in fds.values():
        os.close(fd)


def build_tree(root: Path) -> None:
    """Leave what builders leave: all kinds of things, with odd modes and times."""
    (root / "bin").mkdir(parents=True)
    (root / "bin/run").write_bytes(b"#!/bin/sh\n")
    (root / "bin/run").chmod(0o4755)
    (root / "data").write_bytes(BIG)
    (root / "copy").write_bytes(BIG)
    os.link(root / "data", root / "hard")
    (root / "link").symlink_to("/etc/shadow")
    (root / "unreadable").write_bytes(b"secret")
    (root / "unreadable").chmod(0)
    (root / "bin").chmod(0o500)


def metadata(path: Path) -> Iterator[tuple[str, int, int]]:
    """List what must be canonical."""
    for below in (path, *path.rglob("*")):
        status = below.lstat()
        mode = 0 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
        yield str(below.relative_to(path)), mode, status.st_uid
        assert status.st_mtime_ns == 1_000_000_000


async def test_a_tree_is_sealed(bench: Bench, make_path: Callable[[str], StorePath]):
    """Hashed, made canonical, deduplicated and moved into the store, in one go."""
    path = make_path("x")
    build_tree(bench.built / path.rpartition("/")[2])
    bench.give_to_builder()
    (bench.built / path.rpartition("/")[2]).joinpath("bin/run").chmod(0o4755)
    [sealed] = await bench.seal(bench.output(path))
    name = path.rpartition("/")[2]
    assert nar_hash_of(bench.fds["store"], name) == (
        Digest(HashAlgorithm.SHA256, sealed.nar_hash),
        sealed.nar_size,
    )
    us = os.geteuid()
    assert sorted(metadata(Path(path))) == [
        (".", 0o555, us),
        ("bin", 0o555, us),
        ("bin/run", 0o555, us),
        ("copy", 0o444, us),
        ("data", 0o444, us),
        ("hard", 0o444, us),
        ("link", 0, us),
        ("unreadable", 0o444, us),
    ]
    assert len({os.stat(f"{path}/{name}").st_ino for name in ("copy", "data", "hard")}) == 1
    assert sealed.saved >= len(BIG)
    assert os.listdir(bench.built) == []


async def test_references_are_found(bench: Bench, make_path: Callable[[str], StorePath]):
    """In contents, names and links, and no others."""
    path = make_path("x")
    root = bench.built / path.rpartition("/")[2]
    candidates = tuple(hash_part(make_path(str(number))) for number in range(10_000))
    root.mkdir()
    (root / "text").write_bytes(b"\0" * 300_000 + candidates[7].encode() + b"x")
    (root / f"name-{candidates[5]}").touch()
    (root / "link").symlink_to(f"/gnu/store/{candidates[9999]}-z")
    (root / "part").write_text(candidates[8][:31])
    bench.give_to_builder()
    os.chown(root, BUILDER, -1)
    [sealed] = await bench.seal(bench.output(path), candidates=candidates)
    assert sealed.references == tuple(sorted(candidates[n] for n in (5, 7, 9999)))


async def test_outputs_may_share_hard_links(bench: Bench, make_path: Callable[[str], StorePath]):
    """What the first output's turn made ours is accepted in the second."""
    first, second = make_path("x"), make_path("x-doc")
    for path in (first, second):
        (bench.built / path.rpartition("/")[2]).mkdir()
    name = bench.built / first.rpartition("/")[2] / "file"
    name.write_text("shared")
    os.link(name, bench.built / second.rpartition("/")[2] / "file")
    bench.give_to_builder()
    sealed = await bench.seal(bench.output(first), bench.output(second))
    assert sealed[0].nar_hash == sealed[1].nar_hash


async def test_a_missing_output_is_named(bench: Bench, make_path: Callable[[str], StorePath]):
    """With the derivation; the output before it is not moved either."""
    first, second = make_path("a"), make_path("b")
    (bench.built / first.rpartition("/")[2]).write_text("x")
    bench.give_to_builder()
    with pytest.raises(WorkerError) as caught:
        await bench.seal(bench.output(first), bench.output(second))
    assert caught.value.reason == "missing-output"
    assert caught.value.message == (
        f"builder for `/store/x.drv' failed to produce output path `{second}'"
    )
    assert not os.path.exists(first)


@pytest.mark.parametrize(
    ("mode", "owner"),
    [(0o664, BUILDER), (0o646, BUILDER), pytest.param(0o644, 0, marks=pytest.mark.root)],
)
async def test_a_suspicious_output_is_refused(
    bench: Bench, make_path: Callable[[str], StorePath], mode: int, owner: int
):
    """Somebody else may have written to it."""
    path = make_path("x")
    file = bench.built / path.rpartition("/")[2]
    file.write_text("x")
    file.chmod(mode)
    os.chown(file, owner, -1)
    with pytest.raises(WorkerError, match="suspicious ownership or permission on") as caught:
        await bench.seal(bench.output(path))
    assert caught.value.reason == "suspicious-output"


@pytest.mark.root
@pytest.mark.parametrize("copy", [False, True])
async def test_a_hard_link_to_a_foreign_file_does_not_change_hands(
    bench: Bench,
    make_path: Callable[[str], StorePath],
    tmp_path: Path,
    copy: bool,
):
    """Such as one to /etc/shadow."""
    path = make_path("x")
    root = bench.built / path.rpartition("/")[2]
    root.mkdir()
    bench.give_to_builder()
    (tmp_path / "shadow").write_text("secret")
    (tmp_path / "shadow").chmod(0o600)
    os.link(tmp_path / "shadow", root / "stolen")
    with pytest.raises(WorkerError, match=f"invalid ownership on file `{path}/stolen'") as caught:
        await bench.seal(bench.output(path, copy=copy))
    assert caught.value.reason == "invalid-ownership"
    assert stat.S_IMODE((tmp_path / "shadow").stat().st_mode) == 0o600
    assert not os.path.exists(path)


async def test_other_kinds_of_files_are_refused(
    bench: Bench, make_path: Callable[[str], StorePath]
):
    """A pipe does not make the worker wait."""
    path = make_path("x")
    root = bench.built / path.rpartition("/")[2]
    root.mkdir()
    os.mkfifo(root / "pipe")
    bench.give_to_builder()
    with pytest.raises(WorkerError, match=f"file `{path}/pipe' has an unsupported type") as caught:
        await bench.seal(bench.output(path))
    assert caught.value.reason == "unsupported-type"


def fixed(data: bytes, algorithm: HashAlgorithm, *, recursive: bool = False) -> FixedContent:
    """Describe known content."""
    return FixedContent(algorithm.value, recursive, Digest.of(algorithm, data).value)


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA512])
@pytest.mark.parametrize("recursive", [False, True])
async def test_a_fixed_output_is_sealed_as_a_fresh_copy(
    bench: Bench,
    make_path: Callable[[str], StorePath],
    algorithm: HashAlgorithm,
    recursive: bool,
):
    """Whoever kept a descriptor of the original cannot change the item."""
    path = make_path("x")
    file = bench.built / path.rpartition("/")[2]
    file.write_bytes(BIG)
    bench.give_to_builder()
    archive = b"".join(map(bytes, dump(bench.fds["built"], file.name)))
    content = fixed(archive if recursive else BIG, algorithm, recursive=recursive)
    with file.open("r+b") as smuggled:
        [sealed] = await bench.seal(bench.output(path, fixed=content, copy=True))
        smuggled.write(b"evil")
        smuggled.flush()
    assert await trio.Path(path).read_bytes() == BIG
    assert (
        Digest(HashAlgorithm.SHA256, sealed.nar_hash).value
        == fixed(archive, HashAlgorithm.SHA256).digest
    )
    assert list(metadata(Path(path))) == [(".", 0o444, os.geteuid())]


@pytest.mark.parametrize("copy", [False, True])
async def test_a_hash_mismatch_tells_both_hashes(
    bench: Bench,
    make_path: Callable[[str], StorePath],
    copy: bool,
):
    """And moves nothing."""
    path = make_path("x")
    (bench.built / path.rpartition("/")[2]).write_bytes(b"actual")
    bench.give_to_builder()
    content = fixed(b"expected", HashAlgorithm.SHA256)
    with pytest.raises(WorkerError, match=f"hash mismatch for store item '{path}'") as caught:
        await bench.seal(bench.output(path, fixed=content, copy=copy))
    assert caught.value.reason == "hash-mismatch"
    assert caught.value.actual == Digest.of(HashAlgorithm.SHA256, b"actual")
    assert not os.path.exists(path)


@pytest.mark.parametrize("kind", ["executable", "directory", "link"])
async def test_a_flat_output_must_be_a_plain_file(
    bench: Bench, make_path: Callable[[str], StorePath], kind: str
):
    """As in the reference."""
    path = make_path("x")
    output = bench.built / path.rpartition("/")[2]
    if kind == "directory":
        output.mkdir()
    elif kind == "link":
        output.symlink_to("/etc/passwd")
    else:
        output.touch(0o755)
    bench.give_to_builder()
    content = fixed(b"", HashAlgorithm.SHA256)
    with pytest.raises(WorkerError, match="should be a non-executable regular file") as caught:
        await bench.seal(bench.output(path, fixed=content, copy=True))
    assert caught.value.reason == "not-a-file"


async def test_a_directory_is_sealed_as_a_copy(bench: Bench, make_path: Callable[[str], StorePath]):
    """The copy has the same archive."""
    path = make_path("x")
    name = path.rpartition("/")[2]
    build_tree(bench.built / name)
    bench.give_to_builder()
    expected = nar_hash_of(bench.fds["built"], name)[0].value
    content = FixedContent("sha256", recursive=True, digest=expected)
    [sealed] = await bench.seal(bench.output(path, fixed=content, copy=True))
    assert sealed.nar_hash == expected
    assert (bench.built / name).exists()
    assert nar_hash_of(bench.fds["store"], name)[0].value == expected


async def test_what_is_not_to_be_moved_stays(bench: Bench, make_path: Callable[[str], StorePath]):
    """As when a build is only compared with what is there."""
    path = make_path("x")
    file = bench.built / path.rpartition("/")[2]
    file.write_text("x")
    bench.give_to_builder()
    await bench.seal(bench.output(path), move=False)
    assert file.exists()
    assert not os.path.exists(path)


async def test_a_leftover_in_the_store_makes_way(
    bench: Bench, make_path: Callable[[str], StorePath]
):
    """It is of a build that crashed."""
    path = make_path("x")
    (bench.built / path.rpartition("/")[2]).write_text("new")
    bench.give_to_builder()
    os.makedirs(f"{path}/old")
    await bench.seal(bench.output(path))
    assert await trio.Path(path).read_text() == "new"


async def test_trees_are_deleted_and_hashed(workers: StoreWorkers, tmp_path: Path):
    """Any number at once, by as many workers as there are."""
    fd = os.open(tmp_path, os.O_RDONLY)
    for number in range(8):
        build_tree(tmp_path / str(number))
    expected = nar_hash_of(fd, "0")
    digests = []

    async def work(number: int) -> None:
        digests.append(await workers.hash_path(fd, str(number)))
        assert await workers.verify(fd, str(number), expected[0])
        assert await workers.delete_tree(fd, str(number)) > 2 * len(BIG)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(work, number)
    os.close(fd)
    assert digests == [expected] * 8
    assert not set(map(str, range(8))) & set(os.listdir(tmp_path))


async def test_a_plain_file_is_hashed_by_its_bytes(workers: StoreWorkers, tmp_path: Path):
    """And anything else is refused."""
    fd = os.open(tmp_path, os.O_RDONLY)
    await trio.Path(tmp_path, "f").write_bytes(BIG)
    found = await workers.hash_path(fd, "f", HashAlgorithm.SHA1, recursive=False)
    assert found == (Digest.of(HashAlgorithm.SHA1, BIG), len(BIG))
    os.mkdir(tmp_path / "d")
    with pytest.raises(WorkerError) as caught:
        await workers.hash_path(fd, "d", recursive=False)
    assert caught.value.reason == "system"
    with pytest.raises(WorkerError, match="no name of a directory entry"):
        await workers.delete_tree(fd, "../x")
    os.close(fd)


async def test_giving_up_costs_no_worker(workers: StoreWorkers, tmp_path: Path):
    """The answer to a cancelled request is dropped, and goes to nobody else."""
    fd = os.open(tmp_path, os.O_RDONLY)
    await trio.Path(tmp_path, "big").write_bytes(b"x" * 50_000_000)
    await trio.Path(tmp_path, "f").write_bytes(b"f")
    for _ in range(4):
        with trio.CancelScope() as scope:
            scope.cancel()
            await workers.hash_path(fd, "big")
        with trio.move_on_after(0.001):
            await workers.hash_path(fd, "big")
    expected = Digest.of(HashAlgorithm.SHA256, b"f")
    for _ in range(4):
        assert (await workers.hash_path(fd, "f", recursive=False))[0] == expected
    os.close(fd)


async def end(helper: StartedHelper) -> None:
    """Kill a helper, and have that noticed: its channel closes before it can be waited for."""
    os.kill(helper.pid, 9)
    await trio.to_thread.run_sync(os.waitid, os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)
    await trio.testing.wait_all_tasks_blocked(0.02)


async def test_a_worker_that_dies_fails_its_request_alone(
    workers: StoreWorkers, helpers: list[StartedHelper], tmp_path: Path
):
    """The others go on; with the last one gone, requests fail at once."""
    fd = os.open(tmp_path, os.O_RDONLY)
    await trio.Path(tmp_path, "f").write_bytes(b"f")
    await end(helpers[0])
    for _ in range(3):
        await workers.hash_path(fd, "f")
    await end(helpers[1])
    with pytest.raises(WorkerError) as caught:
        await workers.hash_path(fd, "f")
    assert caught.value.reason == "worker-gone"
    os.close(fd)


@pytest.mark.root
async def test_a_worker_has_only_the_capabilities_it_needs(
    workers: StoreWorkers, helpers: list[StartedHelper], tmp_path: Path
):
    """CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER, and it can gain no other."""
    fd = os.open(tmp_path, os.O_RDONLY)
    await workers.delete_tree(fd, "missing")
    await workers.delete_tree(fd, "missing")
    os.close(fd)
    for helper in helpers:
        text = await trio.Path(f"/proc/{helper.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0b1011
        assert int(fields["CapPrm"], 16) == 0b1011
        assert fields["NoNewPrivs"] == "1"


async def test_small_files_at_rest_need_no_worker(
    bench: Bench, make_path: Callable[[str], StorePath]
):
    """And only those: neither large ones, nor what somebody may still change."""
    small, large = make_path("small"), make_path("large")
    (bench.built / small.rpartition("/")[2]).write_bytes(b"x")
    (bench.built / large.rpartition("/")[2]).write_bytes(bytes(5000))
    bench.give_to_builder()
    bench.workers.close()
    with pytest.raises(WorkerError):
        await bench.seal(bench.output(small), bench.output(large))
    if bench.at_rest:
        [sealed] = await bench.seal(bench.output(small))
        assert sealed.nar_size == 120
    else:
        with pytest.raises(WorkerError):
            await bench.seal(bench.output(small))
