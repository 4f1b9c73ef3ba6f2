# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that speaks the mini-protocol of ``guix authenticate``, sharing no code with ours.

It is for tests of the daemon's side, so its signatures are keyed hashes: the
``signing-key.sec`` beside the public one is the key, and ``acl`` holds the names
of the keys that may sign, one a line. With a file ``misbehave`` in the same
directory it does what that says.
"""

import hashlib
import hmac
import os
import sys


def main() -> int:
    """Answer requests until there are no more."""
    assert sys.argv[1:] == ["authenticate"]
    directory = os.environ["GUIX_CONFIGURATION_DIRECTORY"]
    with open(f"{directory}/starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    with open(f"{directory}/acl") as file:
        authorized = file.read().split()
    while request := read_request():
        misbehave(directory)
        reply(directory, authorized, request)
    return 0


def read_request() -> list[bytes]:
    """Read a request, an octet at a time."""
    command = b""
    while (octet := sys.stdin.buffer.read(1)) not in (b" ", b"\n", b""):
        command += octet
    words = [command] if command else []
    while octet == b" ":
        digits = b""
        while (octet := sys.stdin.buffer.read(1)) != b":":
            digits += octet
        words.append(sys.stdin.buffer.read(int(digits)))
        octet = sys.stdin.buffer.read(1)
    return words


def misbehave(directory: str) -> None:
    """Do what a test asks for."""
    try:
        with open(f"{directory}/misbehave") as file:
            what = file.read()
    except FileNotFoundError:
        return
    if what == "crash":
        sys.stderr.write("Backtrace:\n0 64:" + "0" * 64)
        sys.stderr.flush()
        os._exit(1)
    if what == "die":
        os._exit(1)
    if what == "chatter":
        sys.stdout.write("0 2:no0 2:no")
        sys.stdout.flush()


def reply(directory: str, authorized: list[str], request: list[bytes]) -> None:
    """Answer one request."""
    code, text = 404, b"invalid command"
    if request[0] == b"sign":
        with open(request[1], "rb") as file:
            name, secret = file.read().split(b" ")
        tag = hmac.new(secret, request[2], hashlib.sha256).hexdigest().encode()
        code, text = 0, b"(%s %s\n %s)" % (name, request[2], tag)
    elif request[0] == b"verify":
        code, text = verify(directory, authorized, request[1])
    sys.stdout.buffer.write(b"%d %d:%s" % (code, len(text), text))
    sys.stdout.buffer.flush()


def verify(directory: str, authorized: list[str], signature: bytes) -> tuple[int, bytes]:
    """Check a signature."""
    with open(f"{directory}/signing-key.sec", "rb") as file:
        _, secret = file.read().split(b" ")
    try:
        name, digest, tag = signature.strip(b"()").split()
    except ValueError:
        return 500, b"corrupt signature data: " + signature
    if name.decode() not in authorized:
        return 500, b"unauthorized public key: " + name
    if hmac.new(secret, digest, hashlib.sha256).hexdigest().encode() != tag:
        return 500, b"invalid signature: " + signature
    return 0, digest


if __name__ == "__main__":
    sys.exit(main())
