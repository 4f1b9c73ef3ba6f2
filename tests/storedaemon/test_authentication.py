# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that signs and verifies: kept alive, started anew, never believed too much."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from builder.agents import AgentError, Program
from reaper.monitor import ProcessMonitor
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.signatures.keyring import key_files
from store.signatures.keys import SignatureError
from storedaemon import authentication
from storedaemon.authentication import Authenticator, authentication_program
from storedaemon.config import Source, make_config
from tests.storedaemon import exporting

DIGEST = Digest.of(HashAlgorithm.SHA256, b"what is signed")

Make = Callable[[str], Authenticator]


def program(etc: Path, guix: str) -> Program:
    """Choose the program as a daemon does."""
    values = {"configuration-directory": str(etc), "guix-program": guix}
    return authentication_program(make_config([Source("test", values)]))


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make authenticators with a stub of guix, or with our own program."""
    monitor = ProcessMonitor()
    made: list[Authenticator] = []

    def make(kind: str) -> Authenticator:
        etc = tmp_path / kind
        guix = exporting.make_stub(str(etc)) if kind == "guix" else "/nonexistent"
        if kind != "guix":
            exporting.make_keys(str(etc))
        made.append(Authenticator(monitor, lambda: program(etc, guix), key_files(str(etc))))
        return made[-1]

    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        yield make
        for each in made:
            await each.close()
        nursery.cancel_scope.cancel()


def key(tmp_path: Path, kind: str) -> str:
    """The file of the secret key."""
    return str(tmp_path / kind / "signing-key.sec")


def starts(tmp_path: Path) -> int:
    """How often the stub was started."""
    return len((tmp_path / "guix/starts").read_text().split())


@pytest.mark.parametrize("kind", ["guix", "native"])
async def test_what_it_signs_it_accepts(make: Make, tmp_path: Path, kind: str):
    """With either program, many at once, and nothing else."""
    authenticator = make(kind)
    signatures: list[bytes] = []

    async def sign() -> None:
        signatures.append(await authenticator.sign(key(tmp_path, kind), DIGEST))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(sign)
    assert set(signatures) == {signatures[0]}
    assert await authenticator.verify(signatures[0]) == DIGEST
    with pytest.raises(SignatureError, match="corrupt signature data: "):
        await authenticator.verify(b"(x)")
    with pytest.raises(StoreError) as caught:
        await authenticator.sign("/nonexistent.sec", DIGEST)
    assert caught.value.reason in {"cannot-sign", "agent"}


async def test_one_program_serves_many_requests(make: Make, tmp_path: Path):
    """It is started once, when it is needed."""
    authenticator = make("guix")
    assert not (tmp_path / "guix/starts").exists()
    for _ in range(3):
        await authenticator.sign(key(tmp_path, "guix"), DIGEST)
    assert starts(tmp_path) == 1


async def test_a_dead_one_is_started_anew(make: Make, tmp_path: Path):
    """Nobody notices who asks after it died."""
    authenticator = make("guix")
    await authenticator.sign(key(tmp_path, "guix"), DIGEST)
    pid = int((tmp_path / "guix/starts").read_text())
    os.kill(pid, 9)
    # The pipe ends when the kernel has taken the process down.
    agent = authenticator._agent
    assert agent is not None
    await agent.process.wait()
    await authenticator.sign(key(tmp_path, "guix"), DIGEST)
    assert starts(tmp_path) == 2


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("crash", "`.*guix authenticate' failed: Backtrace:"),
        ("die", "`.*guix authenticate' ended$"),
        ("chatter", "`.*guix authenticate' failed: 0 2:no"),
    ],
)
async def test_what_misbehaves_is_an_error_and_replaced(
    make: Make, tmp_path: Path, how: str, words: str
):
    """What looks like a reply somewhere in its words is none."""
    authenticator = make("guix")
    (tmp_path / "guix/misbehave").write_text(how)
    with pytest.raises(AgentError, match=words):
        await authenticator.verify(b"(me x y)")
    (tmp_path / "guix/misbehave").unlink()
    await authenticator.sign(key(tmp_path, "guix"), DIGEST)
    assert starts(tmp_path) == 2


async def test_who_leaves_within_a_request_harms_nobody(make: Make, tmp_path: Path):
    """The reply that nobody waits for is not the next one's."""
    authenticator = make("guix")
    signature = await authenticator.sign(key(tmp_path, "guix"), DIGEST)
    with trio.CancelScope() as scope:
        scope.cancel()
        await authenticator.verify(b"(x)")
    assert scope.cancelled_caught
    assert await authenticator.verify(signature) == DIGEST


async def test_keys_that_change_count_at_once(make: Make, tmp_path: Path):
    """The program reads its list once, so it is started anew."""
    authenticator = make("guix")
    signature = await authenticator.sign(key(tmp_path, "guix"), DIGEST)
    acl = tmp_path / "guix/acl"
    acl.write_text("nobody\n")
    with pytest.raises(SignatureError, match=r"^unauthorized public key: me$"):
        await authenticator.verify(signature)
    acl.write_text("nobody me\n")
    assert await authenticator.verify(signature) == DIGEST
    assert starts(tmp_path) == 3


async def test_one_that_does_not_answer_is_given_up(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Others wait behind it, so it has not for ever."""
    monkeypatch.setattr(authentication, "REQUEST_SECONDS", 0.2)
    authenticator = make("guix")
    guix = tmp_path / "guix/guix"
    guix.write_text("#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(AgentError, match="did not answer in time"):
        await authenticator.verify(b"(x)")


def test_guix_is_used_where_there_is_one(tmp_path: Path):
    """It is told where the keys are; without it, our own program is."""
    guix = exporting.make_stub(str(tmp_path))
    chosen = program(tmp_path, guix)
    assert (chosen.path, chosen.arguments) == (guix, ("authenticate",))
    assert chosen.environment["GUIX_CONFIGURATION_DIRECTORY"] == str(tmp_path)
    chosen = program(tmp_path, str(tmp_path / "absent"))
    assert chosen.arguments == ("-I", "-m", "store.signatures", str(tmp_path))
