# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that signs and verifies where there is no Guix."""

import subprocess
import sys
from pathlib import Path

from store.signatures.gcrypt import Gcrypt
from store.signatures.keys import KeyPair, sign
from store.signatures.protocol import Reply, ReplyReader, Request

HASH = "ab" * 32


def ask(directory: Path, *requests: Request) -> tuple[int, bytes]:
    """Run the program; give its exit code and all that it said."""
    given = b"".join(request.encode() for request in requests)
    program = [sys.executable, "-I", "-m", "store.signatures", str(directory)]
    done = subprocess.run(program, input=given, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout


def test_it_signs_and_verifies(etc: Path, gcrypt: Gcrypt, pair: KeyPair):
    """What it signs is what the key signs, and it accepts it."""
    key_file = bytes(etc / "signing-key.sec")
    code, said = ask(etc, Request("sign", (key_file, HASH.encode())))
    reply = ReplyReader().feed(said)
    assert (code, reply) == (0, Reply(0, sign(gcrypt, pair, bytes.fromhex(HASH))))
    assert ask(etc, Request("verify", (reply.text,))) == (0, Reply(0, HASH.encode()).encode())


def test_it_answers_one_request_after_the_other(etc: Path):
    """Whatever is wrong with one."""
    replies = (
        Reply(404, b"invalid command"),
        Reply(404, b"invalid command"),
        Reply(
            500,
            b"failed to load key pair at '/nonexistent': No such file or directory",
        ),
        Reply(500, b"a hash of 2 bytes is no sha256"),
        Reply(500, b"corrupt signature data: (x)\n"),
    )
    code, said = ask(
        etc,
        Request("dance", ()),
        Request("sign", (b"one",)),
        Request("sign", (b"/nonexistent", HASH.encode())),
        Request("sign", (b"/nonexistent", b"abab")),
        Request("verify", (b"(x)",)),
    )
    assert code == 0
    assert said == b"".join(reply.encode() for reply in replies)


def test_it_ends_with_its_input(etc: Path):
    """A request that is cut short is an error for whoever started it."""
    program = [sys.executable, "-I", "-m", "store.signatures", str(etc)]
    done = subprocess.run(program, input=b"verify 9:x", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
