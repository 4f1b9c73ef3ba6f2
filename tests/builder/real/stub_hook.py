# SPDX-License-Identifier: GPL-3.0-or-later
"""A build hook for tests, as a program: it speaks the protocol of ``guix offload``.

The file that $STUB_PLAN names says, a line for each request to any of its processes,
what to answer and then to do; the last line holds for all further requests. What it
was told is added to $STUB_PLAN.told, a JSON value a line. Like the real one it puts
outputs into the store itself and registers them without locking anything.
"""

import fcntl
import hashlib
import json
import os
import signal
import sqlite3
import struct
import sys
import time
from typing import Any

LOG = 4


def main() -> None:
    """Answer requests until the end of input."""
    assert sys.argv[1] == "offload"
    told(arguments=sys.argv[2:], pid=os.getpid())
    for line in sys.stdin:
        here, system, drv, features = line.rstrip("\n").split(" ")
        told(here=here, system=system, drv=drv, features=features)
        say("looking for a machine")
        answer, *what = next_step().split()
        act(answer, drv, what)


def act(answer: str, drv: str, what: list[str]) -> None:
    """Give an answer, or do what a broken hook does instead."""
    if answer == "die":
        say("the file of machines is broken")
        sys.exit(1)
    if answer == "hang":
        hang()
    say(f"# {answer}")
    if answer == "accept":
        inputs, outputs = sys.stdin.readline().split(), sys.stdin.readline().split()
        assert sys.stdin.readline() == "", "the daemon closes our input"
        told(inputs=inputs, outputs=outputs)
        say(f"@ build-remote {drv} far-away")
        os.write(LOG, f"building {os.path.basename(drv)} far away\n".encode())
        build(drv, outputs, *what)


def build(drv: str, outputs: list[str], how: str, number: str = "0") -> None:
    """Do what the plan says of an accepted build."""
    match how:
        case "chat":
            chat(int(number))
        case "fail":
            say("derivation offloaded to 'far-away' failed")
            sys.exit(int(number))
        case "signal":
            os.kill(os.getpid(), int(number))
        case "hang":
            hang()
        case "wait":
            wait()
    if how in ("build", "wait"):
        for path in outputs:
            bring(path, drv)
    sys.exit(0)


def chat(times: int) -> None:
    """Print a KiB so often."""
    for _ in range(times):
        os.write(LOG, b"chatter\n" * 128)


def wait() -> None:
    """Wait until the test lets builds end."""
    while not os.path.exists(os.environ["STUB_PLAN"] + ".go"):
        time.sleep(0.01)


def hang() -> None:
    """Do nothing, with a child that does nothing either."""
    if os.fork() == 0:
        signal.pause()
    told(hanging=os.getpid())
    signal.pause()


def bring(path: str, drv: str) -> None:
    """Make a store item and register it, as Guix's restore of an archive does."""
    content = f"built far away from {drv}\n".encode()
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, 0o444)
    os.utime(path, (1, 1))
    nar = b"".join(
        map(string, (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")"))
    )
    row = (path, "sha256:" + hashlib.sha256(nar).hexdigest(), int(time.time()), drv, len(nar))
    database = sqlite3.connect(os.environ["GUIX_DATABASE_DIRECTORY"] + "/db.sqlite", timeout=20)
    with database:
        database.execute(
            "INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize)"
            " VALUES (?, ?, ?, ?, ?)",
            row,
        )
    database.close()


def string(data: bytes) -> bytes:
    """Encode a string of an archive."""
    return struct.pack("<Q", len(data)) + data + bytes(-len(data) % 8)


def say(line: str) -> None:
    """Print a line where the daemon reads."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def told(**what: Any) -> None:
    """Note what the daemon said."""
    with open(os.environ["STUB_PLAN"] + ".told", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(what) + "\n")


def next_step() -> str:
    """Take the next line of the plan."""
    with open(os.environ["STUB_PLAN"], "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        first, *rest = file.read().splitlines()
        if rest:
            file.seek(0)
            file.truncate()
            file.write("".join(f"{each}\n" for each in rest))
        return first


if __name__ == "__main__":
    main()
