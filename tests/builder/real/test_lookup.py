# SPDX-License-Identifier: GPL-3.0-or-later
"""A fixed output whose content is known is copied; its builder, which would fail, never runs."""

import gzip
import os
import stat
from hashlib import md5, sha256, sha512
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from builder.events import BuildStarted, ContentFound, GoalPlanned
from builder.logfile import find_log
from builder.options import BuildMode
from store.derivations import Derivation, Output
from store.hashes import Digest, HashAlgorithm
from store.nar.hash import nar_hash_of
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

FAIL = "echo the builder ran; exit 1"
LARGE = b"content" * 10_000


def fixed(content: bytes) -> tuple[str, str]:
    """State the content of a file."""
    return "sha256", sha256(content).hexdigest()


def fixed_tree(yard: "Yard", path: StorePath) -> tuple[str, str]:
    """State that some item's tree is the content."""
    return "r:sha256", yard.database.path_info(path).nar_hash.base16


def found(yard: "Yard") -> list[ContentFound]:
    """Return what was copied rather than built."""
    assert not any(isinstance(event, BuildStarted) for event in yard.told)
    return [event for event in yard.told if isinstance(event, ContentFound)]


async def make_file(yard: "Yard", content: bytes, name: str = "first") -> StorePath:
    """Build a fixed output with this content, and return its path."""
    source = await yard.add_text(f"{name}-source", content)
    drv = await yard.add_derivation(
        f"cat {source} > $out", name=name, sources=[source], fixed=fixed(content)
    )
    await yard.build(drv)
    yard.told.clear()
    return yard.output(drv)


async def test_content_known_under_another_name_is_copied(yard: "Yard"):
    """Client, log and database learn of it; no builder runs."""
    first = await make_file(yard, LARGE)
    drv = await yard.add_derivation(FAIL, name="second", fixed=fixed(LARGE))
    await yard.build(drv)
    out = yard.output(drv)
    assert found(yard) == [ContentFound(drv, out, first)]
    assert not any(isinstance(event, GoalPlanned) for event in yard.told)
    assert Path(out).read_bytes() == LARGE
    info = yard.database.path_info(out)
    assert (info.deriver, info.references) == (drv, frozenset())
    assert info.nar_hash == yard.database.path_info(first).nar_hash
    log = find_log(yard.layout.logs, drv)
    assert log is not None
    assert first in gzip.decompress(Path(log).read_bytes()).decode()


async def test_whoever_wants_no_log_gets_none_of_a_copy(open_yard: "OpenYard"):
    """And whoever wants one gets it, whatever the daemon would do by itself."""
    for keeps, wish in ((True, False), (False, True)):
        async with open_yard(keep_log=keeps) as yard:
            content = f"{keeps}".encode() * 1000
            await make_file(yard, content, f"first-{keeps}")
            drv = await yard.add_derivation(FAIL, name=f"again-{keeps}", fixed=fixed(content))
            await yard.build(drv, keep_log=wish)
            assert found(yard)
            assert (find_log(yard.layout.logs, drv) is not None) is wish


async def test_a_copy_costs_no_space_and_has_canonical_metadata(yard: "Yard"):
    """Both names lead to one inode."""
    first = await make_file(yard, LARGE)
    drv = await yard.add_derivation(FAIL, name="second", fixed=fixed(LARGE))
    await yard.build(drv)
    status = os.lstat(yard.output(drv))
    assert status.st_ino == os.lstat(first).st_ino
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o444, 1)


async def test_a_tree_is_copied_as_a_whole(yard: "Yard"):
    """What any build made is known by the hash of its archive form."""
    low = await yard.add_derivation(
        "mkdir -p $out/a/b; echo x > $out/a/b/file; chmod 755 $out/a/b/file; ln -s b $out/a/link"
    )
    await yard.build(low)
    first = yard.output(low)
    drv = await yard.add_derivation(FAIL, name="tree", fixed=fixed_tree(yard, first))
    yard.told.clear()
    await yard.build(drv)
    out = Path(yard.output(drv))
    assert [event.source for event in found(yard)] == [first]
    assert (out / "a/link/file").read_text() == "x\n"
    assert stat.S_IMODE((out / "a/b").lstat().st_mode) == 0o555
    assert stat.S_IMODE(Path(first, "a/b").lstat().st_mode) == 0o555


async def test_inputs_are_not_needed_for_what_is_copied(yard: "Yard"):
    """Nothing that only the builder would need is made."""
    await make_file(yard, LARGE)
    tool = await yard.add_derivation("exit 1", name="tool")
    drv = await yard.add_derivation(FAIL, name="second", inputs=[tool], fixed=fixed(LARGE))
    await yard.build(drv)
    assert found(yard)


async def test_content_that_appears_meanwhile_is_copied(yard: "Yard"):
    """What a request builds serves its own later goals."""
    source = await yard.add_text("source", LARGE)
    first = await yard.add_derivation(
        f"cat {source} > $out", name="first", sources=[source], fixed=fixed(LARGE)
    )
    drv = await yard.add_derivation(FAIL, name="second", inputs=[first], fixed=fixed(LARGE))
    await yard.build(drv)
    assert [event.drv for event in yard.told if isinstance(event, ContentFound)] == [drv]


@pytest.mark.parametrize("hasher", [md5, sha512])
async def test_other_algorithms_are_known_once_stated(yard: "Yard", hasher: "type[md5]"):
    """The index has each hash that was verified."""
    stated = hasher.__name__.removeprefix("openssl_"), hasher(LARGE).hexdigest()
    source = await yard.add_text("source", LARGE)
    first = await yard.add_derivation(f"cat {source} > $out", sources=[source], fixed=stated)
    await yard.build(first)
    yard.told.clear()
    drv = await yard.add_derivation(FAIL, name="second", fixed=stated)
    await yard.build(drv)
    assert found(yard)


async def test_a_false_entry_only_costs_time(yard: "Yard"):
    """What says to have the content, and has not, is forgotten; the builder runs."""
    other = await make_file(yard, b"other" * 9999)
    digest = Digest(HashAlgorithm.SHA256, sha256(LARGE).digest())
    yard.content_index.record(digest, other, recursive=False)
    source = await yard.add_text("source", LARGE)
    drv = await yard.add_derivation(
        f"cat {source} > $out", name="second", sources=[source], fixed=fixed(LARGE)
    )
    await yard.build(drv)
    assert any(isinstance(event, BuildStarted) for event in yard.told)
    assert not any(isinstance(event, ContentFound) for event in yard.told)
    assert Path(yard.output(drv)).read_bytes() == LARGE
    assert yard.content_index.lookup(digest, recursive=False) == yard.output(drv)


async def test_a_false_entry_for_what_cannot_be_built_registers_nothing(yard: "Yard"):
    """Neither the wrong content nor any other is there afterwards."""
    other = await make_file(yard, b"other" * 9999)
    digest = Digest(HashAlgorithm.SHA256, sha256(LARGE).digest())
    yard.content_index.record(digest, other, recursive=False)
    drv = await yard.add_derivation(FAIL, name="second", fixed=fixed(LARGE))
    await yard.failure(drv)
    assert not os.path.lexists(yard.output(drv))
    assert yard.content_index.lookup(digest, recursive=False) is None


async def test_a_damaged_item_is_not_copied(yard: "Yard"):
    """What lies in the store is hashed again, whatever was registered of it."""
    first = await make_file(yard, LARGE)
    for path in (first, *(Path(yard.layout.links).iterdir())):
        os.chmod(path, 0o644)
        Path(path).write_bytes(LARGE[:-1] + b"!")
    drv = await yard.add_derivation(FAIL, name="second", fixed=fixed(LARGE))
    await yard.failure(drv)
    assert not os.path.lexists(yard.output(drv))


async def test_an_item_that_is_gone_is_not_missed(yard: "Yard"):
    """The entry is forgotten, and the builder runs."""
    first = await make_file(yard, LARGE)
    await yard.database.invalidate(first)
    drv = await yard.add_derivation("exit 1", name="second", fixed=fixed(LARGE))
    await yard.failure(drv)
    digest = Digest(HashAlgorithm.SHA256, sha256(LARGE).digest())
    assert yard.content_index.lookup(digest, recursive=False) is None


async def test_an_executable_has_another_hash_than_its_bytes(yard: "Yard"):
    """A flat output is never executable, whatever it was copied from."""
    script = await yard.add_text("script", LARGE, executable=True)
    digest = Digest(HashAlgorithm.SHA256, sha256(LARGE).digest())
    yard.content_index.record(digest, script, recursive=False)
    drv = await yard.add_derivation(FAIL, name="second", fixed=fixed(LARGE))
    await yard.build(drv)
    assert found(yard)
    assert stat.S_IMODE(os.lstat(yard.output(drv)).st_mode) == 0o444
    fd = os.open(yard.layout.store, os.O_RDONLY)
    try:
        digest, _ = nar_hash_of(fd, os.path.basename(yard.output(drv)))
    finally:
        os.close(fd)
    assert digest == yard.database.path_info(yard.output(drv)).nar_hash


async def test_a_copy_refers_to_what_its_source_does(yard: "Yard"):
    """Nothing that content mentions is collected before it."""
    mentioned = await yard.add_text("mentioned", b"text")
    low = await yard.add_derivation(f"mkdir $out; echo {mentioned} > $out/x", sources=[mentioned])
    await yard.build(low)
    drv = await yard.add_derivation(FAIL, name="tree", fixed=fixed_tree(yard, yard.output(low)))
    await yard.build(drv)
    assert yard.database.path_info(yard.output(drv)).references == {mentioned}


async def test_what_is_known_needs_no_builtin_builder(yard: "Yard"):
    """Not even one that nobody serves here."""
    first = await make_file(yard, LARGE)
    bare = Derivation(
        outputs={"out": Output("", *fixed(LARGE))},
        input_derivations={},
        input_sources=(),
        system="none-linux",
        builder="builtin:download",
        args=(),
        env={"url": '"http://localhost:1/nothing"'},
    )
    drv = await yard.add_described(bare, "second")
    await yard.build(drv, max_jobs=0)
    assert [event.source for event in found(yard)] == [first]


async def test_a_check_builds(yard: "Yard"):
    """Checking means running the builder, whatever is known."""
    first = await make_file(yard, LARGE)
    source = await yard.add_text("source", LARGE)
    drv = await yard.add_derivation(
        f"cat {source} > $out", name="second", sources=[source], fixed=fixed(LARGE)
    )
    await yard.build(drv)
    assert [event.source for event in found(yard)] == [first]
    await yard.build(drv, mode=BuildMode.CHECK)
    assert any(isinstance(event, BuildStarted) for event in yard.told)


async def test_nothing_is_left_behind(yard: "Yard"):
    """Private directories and locks are gone when the build is."""
    await make_file(yard, LARGE)
    drv = await yard.add_derivation(FAIL, name="second", fixed=fixed(LARGE))
    await yard.build(drv)
    with trio.fail_after(20):
        while yard.leftovers():
            await trio.sleep(0.001)
