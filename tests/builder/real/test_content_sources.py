# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixed outputs whose content only a medium has: a real mount, which comes and goes.

The builders would fail if they ran. Whatever is wrong with a medium, nothing wrong is
registered.
"""

import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from builder.events import BuildStarted, ContentFound
from store.content_sources import scanner as module
from store.content_sources.scanner import SourceStatus, State
from store.nar.hash import nar_hash_of

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

FAIL = "echo the builder ran; exit 1"
CONTENT = b"on a medium" * 1000

pytestmark = pytest.mark.root


def stated(content: bytes) -> tuple[str, str]:
    """State the content of a file."""
    return "sha256", sha256(content).hexdigest()


class Medium:
    """A file system that is mounted and unmounted."""

    def __init__(self, base: Path) -> None:
        self.files = base / "medium"
        self.place = base / "media" / "dvd"
        self.files.mkdir()
        self.place.mkdir(parents=True)
        self.mounted = False

    def mount(self) -> None:
        """Put it in."""
        subprocess.run(["mount", "--bind", self.files, self.place], check=True)
        self.mounted = True

    def unmount(self, *options: str) -> None:
        """Take it out."""
        subprocess.run(["umount", *options, self.place], check=True)
        self.mounted = False


@pytest.fixture
def medium(base: Path) -> Iterator[Medium]:
    """A medium that is mounted."""
    made = Medium(base)
    made.mount()
    yield made
    if made.mounted:
        made.unmount()


@asynccontextmanager
async def opened(open_yard: "OpenYard", medium: Medium) -> AsyncIterator["Yard"]:
    """Open a yard with the medium as its content source, once that was gone through."""
    async with open_yard(content_sources=[str(medium.place)]) as yard:
        await until(yard, lambda status: status.last_scan > 0 or not medium.mounted)
        yield yard


def status_of(yard: "Yard") -> SourceStatus:
    """Look at the only content source."""
    [status] = yard.content_sources.status()
    return status


async def until(yard: "Yard", condition: Callable[[SourceStatus], bool]) -> SourceStatus:
    """Wait for something to be true of the content source."""
    with trio.fail_after(20):
        while not condition(status_of(yard)):
            await trio.sleep(0.01)
    return status_of(yard)


def found(yard: "Yard") -> list[str]:
    """Return where content was copied from."""
    return [event.source for event in yard.told if isinstance(event, ContentFound)]


async def test_a_file_on_a_medium_is_copied(open_yard: "OpenYard", medium: Medium):
    """Its bytes count: names, owners and modes are the medium's."""
    file = medium.files / "distfiles" / "a b.tar"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    file.chmod(0o777)
    async with opened(open_yard, medium) as yard:
        drv = await yard.add_derivation(FAIL, fixed=stated(CONTENT))
        await yard.build(drv)
        assert found(yard) == [f"{medium.place}/distfiles/a b.tar"]
        out = yard.output(drv)
        assert Path(out).read_bytes() == CONTENT
        assert stat.S_IMODE(os.lstat(out).st_mode) == 0o444
        assert file.stat().st_mode & 0o777 == 0o777


async def test_a_directory_on_a_medium_is_copied(open_yard: "OpenYard", medium: Medium):
    """As its archive form has it."""
    tree = medium.files / "git" / "checkout"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "run").write_bytes(CONTENT)
    (tree / "sub" / "run").chmod(0o755)
    (tree / "link").symlink_to("sub/run")
    fd = os.open(tree.parent, os.O_RDONLY)
    digest, _ = nar_hash_of(fd, "checkout")
    os.close(fd)
    async with opened(open_yard, medium) as yard:
        assert status_of(yard).trees == 2
        drv = await yard.add_derivation(FAIL, fixed=("r:sha256", digest.base16))
        await yard.build(drv)
        assert found(yard) == [f"{medium.place}/git/checkout"]
        assert Path(yard.output(drv), "link").read_bytes() == CONTENT
        assert yard.database.path_info(yard.output(drv)).nar_hash == digest


async def test_a_medium_comes_and_goes(open_yard: "OpenYard", medium: Medium):
    """Without it builders run; when it is back, nothing is hashed again."""
    (medium.files / "file").write_bytes(CONTENT)
    async with opened(open_yard, medium) as yard:
        assert status_of(yard).hashed == len(CONTENT)
        medium.unmount()
        status = await until(yard, lambda status: status.state is State.ABSENT)
        assert (status.files, status.problem) == (1, "")
        drv = await yard.add_derivation(FAIL, fixed=stated(CONTENT))
        await yard.failure(drv)
        assert any(isinstance(event, BuildStarted) for event in yard.told)
        medium.mount()
        status = await until(yard, lambda status: status.state is State.IDLE)
        assert status.hashed == 0
        await yard.build(drv)
        assert found(yard) == [f"{medium.place}/file"]


async def test_what_was_hashed_outlives_the_daemon(open_yard: "OpenYard", medium: Medium):
    """A second one hashes only what has changed."""
    (medium.files / "file").write_bytes(CONTENT)
    (medium.files / "other").write_bytes(b"short")
    async with opened(open_yard, medium):
        pass
    (medium.files / "other").write_bytes(b"longer")
    async with opened(open_yard, medium) as yard:
        assert status_of(yard).hashed == len(b"longer")
        assert status_of(yard).files == 2


async def test_a_source_that_is_not_there_is_no_error(open_yard: "OpenYard", medium: Medium):
    """It may come later."""
    (medium.files / "file").write_bytes(CONTENT)
    medium.unmount()
    async with opened(open_yard, medium) as yard:
        await until(yard, lambda status: status.state is State.ABSENT)
        medium.mount()
        await until(yard, lambda status: status.state is State.IDLE)
        drv = await yard.add_derivation(FAIL, fixed=stated(CONTENT))
        await yard.build(drv)
        assert found(yard)


def change(file: Path) -> None:
    """Keep what a file looks like, but for its bytes."""
    status = file.stat()
    with file.open("r+b") as opened_file:
        opened_file.write(b"X")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def rewrite(file: Path) -> None:
    """Write something else."""
    file.write_bytes(b"else")


def link(file: Path) -> None:
    """Put a link in a file's place."""
    file.unlink()
    target = file.with_name("target")
    target.write_bytes(CONTENT)
    file.symlink_to(target)


def link_above(file: Path) -> None:
    """Put a link in the place of the directory, which leads out."""
    outside = file.parents[2] / "outside"
    shutil.move(file.parent, outside)
    file.parent.symlink_to(outside)


def fifo(file: Path) -> None:
    """Put a FIFO in a file's place, which nobody writes to."""
    file.unlink()
    os.mkfifo(file)


def device(file: Path) -> None:
    """Put a device in a file's place that never ends."""
    file.unlink()
    os.mknod(file, 0o644 | stat.S_IFCHR, os.makedev(1, 5))


def giant(file: Path) -> None:
    """Make a file as large as none is, but for its holes."""
    os.truncate(file, 1 << 42)


@pytest.mark.parametrize("spoil", [change, rewrite, link, link_above, fifo, device, giant])
async def test_a_medium_that_lies_costs_only_time(
    open_yard: "OpenYard", medium: Medium, spoil: Callable[[Path], None]
):
    """What was hashed is something else when it is copied; the builder runs."""
    file = medium.files / "directory" / "file"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    async with opened(open_yard, medium) as yard:
        spoil(file)
        source = await yard.add_text("source", CONTENT)
        drv = await yard.add_derivation(
            f"cat {source} > $out", sources=[source], fixed=stated(CONTENT)
        )
        await yard.build(drv)
        assert found(yard) == []
        assert Path(yard.output(drv)).read_bytes() == CONTENT


async def test_only_files_are_read(open_yard: "OpenYard", medium: Medium):
    """What could block, never ends or leads elsewhere is passed over."""
    os.mkfifo(medium.files / "fifo")
    os.mknod(medium.files / "zero", 0o644 | stat.S_IFCHR, os.makedev(1, 5))
    (medium.files / "link").symlink_to("/etc/passwd")
    (medium.files / "loop").symlink_to(".")
    with (medium.files / "giant").open("wb") as file:
        file.truncate(1 << 42)
    (medium.files / "file").write_bytes(CONTENT)
    async with opened(open_yard, medium) as yard:
        status = status_of(yard)
        assert (status.files, status.hashed, status.state) == (1, len(CONTENT), State.IDLE)


async def test_a_scan_ends_with_the_daemon(
    open_yard: "OpenYard", medium: Medium, monkeypatch: pytest.MonkeyPatch
):
    """Also in the middle of a file that takes hours."""
    monkeypatch.setattr(module, "LARGEST", 1 << 50)
    with (medium.files / "giant").open("wb") as file:
        file.truncate(1 << 42)
    with trio.fail_after(10):
        async with open_yard(content_sources=[str(medium.place)]) as yard:
            await until(yard, lambda status: status.state is State.SCANNING)


async def test_a_scan_ends_when_its_medium_is_gone(
    open_yard: "OpenYard", medium: Medium, monkeypatch: pytest.MonkeyPatch
):
    """One that is detached by force is let go soon."""
    monkeypatch.setattr(module, "LARGEST", 1 << 50)
    with (medium.files / "giant").open("wb") as file:
        file.truncate(1 << 42)
    async with open_yard(content_sources=[str(medium.place)]) as yard:
        await until(yard, lambda status: status.state is State.SCANNING)
        medium.unmount("-l")
        await until(yard, lambda status: status.state is State.ABSENT)
