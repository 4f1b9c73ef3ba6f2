# SPDX-License-Identifier: GPL-3.0-or-later
"""What a builder leaves is registered as it is, or not at all."""

import gzip
import os
import stat
from hashlib import sha1, sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.events import BuildStarted, BuildSucceeded, FailureKind, HashMismatch
from builder.options import BuildMode
from store.hashes import Digest, HashAlgorithm
from store.nar.hash import nar_hash_of

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard


async def test_an_output_is_registered_with_all_that_is_known_of_it(yard: "Yard"):
    """Hash, size, references, deriver and log are those of what lies in the store."""
    source = await yard.add_text("source", b"text")
    drv = await yard.add_derivation(
        f"echo made from {source}; echo {source} > $out", sources=[source]
    )
    await yard.build(drv)
    out = yard.output(drv)
    info = yard.database.path_info(out)
    fd = os.open(yard.layout.store, os.O_RDONLY)
    assert (info.nar_hash, info.nar_size) == nar_hash_of(fd, os.path.basename(out))
    os.close(fd)
    assert info.references == {source}
    assert info.deriver == drv
    status = os.lstat(out)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_uid) == (0o444, 1, os.getuid())
    started = next(event for event in yard.told if isinstance(event, BuildStarted))
    assert gzip.decompress(Path(started.log_file).read_bytes()) == f"made from {source}\n".encode()
    assert isinstance(yard.told[-1], BuildSucceeded)


async def test_what_is_valid_is_not_built_again(yard: "Yard"):
    """The second request starts nothing."""
    drv = await yard.add_derivation("echo x > $out")
    await yard.build(drv)
    yard.told.clear()
    await yard.build(drv)
    assert yard.told == []


async def test_inputs_are_built_first_and_seen(yard: "Yard"):
    """A derivation sees the outputs of its inputs, and what those refer to."""
    low = await yard.add_derivation("echo low > $out", name="low")
    middle = await yard.add_derivation(f"echo {yard.output(low)} > $out", name="mid", inputs=[low])
    top = await yard.add_derivation(
        f"read path < {yard.output(middle)}; cat $path > $out", name="top", inputs=[middle]
    )
    await yard.build(top)
    assert Path(yard.output(top)).read_text() == "low\n"


async def test_several_outputs_may_refer_to_each_other(yard: "Yard"):
    """References within a derivation are found and registered together."""
    drv = await yard.add_derivation("echo $lib > $out; echo $lib > $lib", outputs=["lib", "out"])
    await yard.build(drv)
    lib = yard.output(drv, "lib")
    assert yard.database.path_info(yard.output(drv)).references == {lib}
    assert yard.database.path_info(lib).references == {lib}


async def test_outputs_that_refer_to_each_other_in_a_circle_are_refused(yard: "Yard"):
    """A circle cannot be collected or copied piece by piece."""
    drv = await yard.add_derivation("echo $lib > $out; echo $out > $lib", outputs=["lib", "out"])
    failure = await yard.failure(drv)
    assert "cycle detected" in failure.message
    assert not yard.database.is_valid(yard.output(drv))


async def test_weird_permissions_become_canonical(yard: "Yard"):
    """A directory that shuts its owner out, an odd mode, a link: all as the store has them."""
    drv = await yard.add_derivation(
        "mkdir -p $out/closed; echo x > $out/closed/file; chmod 700 $out/closed/file;"
        "echo y > $out/plain; chmod 600 $out/plain; ln -s /etc/passwd $out/link;"
        "ln $out/plain $out/hard; chmod 0 $out/closed"
    )
    await yard.build(drv)
    out = Path(yard.output(drv))
    modes = {
        name: oct(stat.S_IMODE((out / name).lstat().st_mode))
        for name in ("closed", "closed/file", "plain", "hard")
    }
    assert modes == {"closed": "0o555", "closed/file": "0o555", "plain": "0o444", "hard": "0o444"}
    assert os.readlink(out / "link") == "/etc/passwd"
    assert (out / "plain").lstat().st_ino == (out / "hard").lstat().st_ino


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("true", "failed to produce output path"),
        ("mkfifo $out", "has an unsupported type"),
        ("mkdir $out; mkfifo $out/pipe", "has an unsupported type"),
        ("echo x > $out; chmod 666 $out", "suspicious ownership or permission"),
    ],
)
async def test_unacceptable_outputs_are_refused(yard: "Yard", script: str, fault: str):
    """The error names the path; nothing is registered, nothing is left in the store."""
    drv = await yard.add_derivation(script)
    failure = await yard.failure(drv)
    assert fault in failure.message
    assert failure.kind is FailureKind.OUTPUT_REJECTED
    assert not yard.database.is_valid(yard.output(drv))
    assert not os.path.lexists(yard.output(drv))


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        ("sha256", sha256(b"content").hexdigest()),
        ("sha1", sha1(b"content").hexdigest()),
    ],
)
async def test_a_fixed_output_with_the_stated_content_is_accepted(
    yard: "Yard", algorithm: str, digest: str
):
    """Any algorithm will do; the content is known by its hash from then on."""
    drv = await yard.add_derivation("printf content > $out", fixed=(algorithm, digest))
    await yard.build(drv)
    assert Path(yard.output(drv)).read_bytes() == b"content"
    known = Digest(HashAlgorithm(algorithm), bytes.fromhex(digest))
    assert yard.content_index.lookup(known, recursive=False) == yard.output(drv)


async def test_a_fixed_output_with_other_content_is_refused(yard: "Yard"):
    """The trace tells both hashes in base 32."""
    drv = await yard.add_derivation(
        "echo other > $out", fixed=("sha256", sha256(b"content").hexdigest())
    )
    failure = await yard.failure(drv)
    assert failure.message == f"hash mismatch for store item '{yard.output(drv)}'"
    [mismatch] = [event for event in yard.told if isinstance(event, HashMismatch)]
    assert mismatch.actual == "11qzh8j4a2mlqqswm0i0v40a2s5dkx4c9vsxkmrqkh3sikms4kvy"
    assert not yard.database.is_valid(yard.output(drv))


async def test_a_flat_fixed_output_must_be_a_plain_file(yard: "Yard"):
    """An executable one has another hash in archive form than its content says."""
    drv = await yard.add_derivation(
        "printf content > $out; chmod 755 $out",
        fixed=("sha256", sha256(b"content").hexdigest()),
    )
    failure = await yard.failure(drv)
    assert "should be a non-executable regular file" in failure.message


async def test_forbidden_references_keep_an_output_out_of_the_store(yard: "Yard"):
    """The constraint is checked before anything is placed."""
    source = await yard.add_text("source", b"text")
    drv = await yard.add_derivation(f"echo {source} > $out", sources=[source], allowedReferences="")
    failure = await yard.failure(drv)
    assert f"is not allowed to refer to path `{source}'" in failure.message
    assert not os.path.lexists(yard.output(drv))


async def test_a_builder_gets_the_closures_it_asks_for(yard: "Yard"):
    """The file is in its build directory."""
    source = await yard.add_text("source", b"text")
    other = await yard.add_text("other", b"text", [source])
    drv = await yard.add_derivation(
        "cat graph > $out", sources=[other], exportReferencesGraph=f"graph {other}"
    )
    await yard.build(drv)
    text = Path(yard.output(drv)).read_text()
    assert f"{other}\n\n1\n{source}\n" in text
    assert f"{source}\n\n0\n" in text


async def test_checking_a_reproducible_build_succeeds(yard: "Yard"):
    """The valid output stays as it is."""
    drv = await yard.add_derivation("echo x > $out")
    await yard.build(drv)
    before = os.lstat(yard.output(drv))
    await yard.check(drv)
    assert os.lstat(yard.output(drv)).st_ino == before.st_ino


async def test_checking_finds_a_build_that_is_not_reproducible(yard: "Yard"):
    """With keep-failed the differing output is kept for comparison."""
    drv = await yard.add_derivation("cat /proc/sys/kernel/random/uuid > $out")
    await yard.build(drv)
    failure = await yard.failure(drv, mode=BuildMode.CHECK, keep_failed=True)
    assert "may not be deterministic" in failure.message
    kept = f"{yard.output(drv)}-check"
    assert failure.message.endswith(f"differs from `{kept}'")
    assert Path(kept).read_text() != Path(yard.output(drv)).read_text()


async def test_rounds_must_agree(yard: "Yard"):
    """Nothing is registered of a build that differs from round to round."""
    good = await yard.add_derivation("echo x > $out", name="good")
    await yard.build(good, rounds=2)
    bad = await yard.add_derivation("cat /proc/sys/kernel/random/uuid > $out", name="bad")
    failure = await yard.failure(bad, rounds=2)
    assert "differs from previous round" in failure.message
    assert failure.kind is FailureKind.OUTPUT_REJECTED
    assert not yard.database.is_valid(yard.output(bad))


async def test_repairing_replaces_what_is_damaged(yard: "Yard"):
    """The item has its registered content again."""
    drv = await yard.add_derivation("echo x > $out")
    await yard.build(drv)
    out = Path(yard.output(drv))
    out.chmod(0o644)
    out.write_text("damaged")
    await yard.build(drv, mode=BuildMode.REPAIR)
    assert out.read_text() == "x\n"
    yard.told.clear()
    await yard.build(drv, mode=BuildMode.REPAIR)
    assert not [event for event in yard.told if isinstance(event, BuildStarted)]


async def test_left_overs_of_a_crash_are_replaced(yard: "Yard"):
    """An unregistered tree in the place of an output, and an old private directory."""
    drv = await yard.add_derivation("echo x > $out")
    out = Path(yard.output(drv))
    (out / "old").mkdir(parents=True)
    Path(f"{drv}.chroot/store/x").mkdir(parents=True)
    await yard.build(drv)
    assert out.read_text() == "x\n"


async def test_equal_files_share_their_blocks(yard: "Yard"):
    """Two outputs with the same large file have one inode."""
    script = "head -c 100000 /dev/zero > $out"
    one = await yard.add_derivation(script, name="one")
    two = await yard.add_derivation(script, name="two")
    await yard.build(one, two)
    assert os.stat(yard.output(one)).st_ino == os.stat(yard.output(two)).st_ino


async def test_nothing_is_left_behind(open_yard: "OpenYard"):
    """No lock, no private directory, no build directory, no child."""
    async with open_yard() as yard:
        good = await yard.add_derivation("echo x > $out", name="good")
        bad = await yard.add_derivation("exit 3", name="bad")
        await yard.build(good)
        await yard.failure(bad)
        running = yard.monitor.statistics().running
    assert yard.leftovers() == []
    assert running == 3


async def test_what_a_failed_builder_made_is_kept_where_it_would_be(yard: "Yard"):
    """For who asked to keep failed builds: harmless, not valid, and gone with the next build."""
    drv = await yard.add_derivation(
        "mkdir $out; echo half >$out/file; chmod 757 $out/file; test $succeed; echo rest >$doc",
        outputs=("out", "doc"),
        succeed="",
    )
    await yard.failure(drv, keep_failed=True)
    kept = Path(yard.output(drv))
    assert (kept / "file").read_text() == "half\n"
    assert stat.S_IMODE((kept / "file").stat().st_mode) == 0o555
    assert kept.stat().st_uid == os.geteuid()
    assert not yard.database.is_valid(yard.output(drv))
    assert not os.path.lexists(yard.output(drv, "doc"))
    await yard.failure(drv)
    assert not kept.exists()


async def test_what_may_not_lie_in_a_store_is_not_kept(yard: "Yard"):
    """The failure stays the builder's own."""
    drv = await yard.add_derivation("mkdir $out; mkfifo $out/pipe; exit 3")
    failure = await yard.failure(drv, keep_failed=True)
    assert "failed with exit code 3" in failure.message
    assert not os.path.lexists(yard.output(drv))


@pytest.mark.parametrize("use_chroot", [True, False])
async def test_every_round_starts_without_outputs(open_yard: "OpenYard", use_chroot: bool):
    """In a container or without one."""
    async with open_yard(use_chroot=use_chroot) as yard:
        drv = await yard.add_derivation("test ! -e $out; echo same >$out")
        await yard.build(drv, rounds=3)
        assert yard.database.is_valid(yard.output(drv))


@pytest.mark.parametrize("mode", [BuildMode.CHECK, BuildMode.REPAIR])
async def test_what_needs_a_container_is_refused_without_one(
    open_yard: "OpenYard", mode: BuildMode
):
    """The builder would write over the valid output that it is compared with."""
    async with open_yard(use_chroot=False) as yard:
        drv = await yard.add_derivation("cat /proc/sys/kernel/random/uuid >$out")
        await yard.build(drv)
        before = Path(yard.output(drv)).read_text()
        if mode is BuildMode.REPAIR:
            Path(yard.output(drv)).write_text("damaged")
            before = "damaged"
        failure = await yard.failure(drv, mode=mode)
        assert "without `--disable-chroot'" in failure.message
        assert Path(yard.output(drv)).read_text() == before


async def test_a_builder_that_keeps_printing_is_not_silent(open_yard: "OpenYard"):
    """However long it takes; without a container its end is awaited beside its output."""
    async with open_yard(use_chroot=False) as yard:
        drv = await yard.add_derivation(
            "for i in 1 2 3 4 5; do echo on; sleep 0.4; done; echo x >$out"
        )
        await yard.build(drv, max_silent_time=1)
        assert yard.log() == "on\n" * 5
