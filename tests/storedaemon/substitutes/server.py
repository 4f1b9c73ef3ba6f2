# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for ``guix substitute``: a program of its own, which tests start through the daemon.

It speaks both mini-protocols, and serves what lies in the directory named by
``SHELF``: for each item a JSON file with what it says, and a file or directory
with what it delivers. What a test wants it to do wrong is in the JSON file. Every
line it is asked is noted in ``SHELF/requests``, with its process number.
`Shelf` is the tests' side.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"


def main(arguments: list[str]) -> int:
    """Serve until the end of input; nothing is busy."""
    if arguments == ["gc", "--list-busy"]:
        return 0
    if arguments[:1] != ["substitute"]:
        return 1
    shelf = Path(os.environ["SHELF"])
    with os.fdopen(4, "w", encoding="utf-8") as replies:
        note(shelf, f"start {arguments[1]}", os.environ.get("_NIX_OPTIONS", ""))
        for line in sys.stdin:
            note(shelf, line.strip())
            command, *words = line.split()
            if command == "info":
                answer = "".join(describe(shelf, path) for path in words) + "\n"
            else:
                answer = fetch(shelf, *words) + "\n"
            replies.write(answer)
            replies.flush()
    return 0


def note(shelf: Path, line: str, options: str = "") -> None:
    """Note what was asked."""
    with (shelf / "requests").open("a", encoding="utf-8") as file:
        file.write(json.dumps([os.getpid(), line, options]) + "\n")


def load(shelf: Path, path: str) -> dict[str, Any] | None:
    """Read what there is to say of an item."""
    try:
        known = json.loads((shelf / f"{os.path.basename(path)}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return known if isinstance(known, dict) else None


def describe(shelf: Path, path: str) -> str:
    """Write the record of an item."""
    known = load(shelf, path)
    if known is None:
        return ""
    misbehave(known.get("on-query", ""))
    references = known["references"]
    lines = [path, known["deriver"], len(references), *references, known["download"], known["size"]]
    return "".join(f"{line}\n" for line in lines)


def fetch(shelf: Path, path: str, destination: str) -> str:
    """Deliver an item, and say how that went."""
    known = load(shelf, path)
    if known is None:
        return "not-found"
    url = f"file://{shelf}/{os.path.basename(path)}"
    tell(f"@ download-started {destination} {url} {known['download']}\n")
    misbehave(known.get("on-fetch", ""))
    copy(shelf / f"{os.path.basename(path)}.contents", Path(destination))
    tell(f"@ download-progress {destination} {url} {known['download']} {known['download']}\n")
    tell(f"@ download-succeeded {destination} {url} {known['download']}\n")
    tell("\n")
    misbehave(known.get("after-fetch", ""))
    status = known.get("status")
    return str(status) if status else f"success {known['hash']} {known['size']}"


def tell(text: str) -> None:
    """Print something for people at once."""
    sys.stderr.write(text)
    sys.stderr.flush()


def copy(source: Path, destination: Path) -> None:
    """Deliver a file, a link or a directory, as an archive is unpacked."""
    if source.is_symlink() or source.is_file():
        shutil.copy(source, destination, follow_symlinks=False)
    elif source.is_dir():
        shutil.copytree(source, destination, symlinks=True)


def misbehave(how: str) -> None:
    """Do what a test wants to go wrong."""
    match how.split():
        case ["hang"]:
            tell("I am going to hang\n")
            time.sleep(4800)
        case ["die"]:
            tell("I am going to die\n")
            os._exit(7)
        case ["chatter"]:
            os.write(4, b"x" * 100_000)
        case ["wait", name]:
            while not os.path.exists(name):
                time.sleep(0.01)


class Shelf:
    """What the stand-in offers, from the tests' side.

    Args:
        directory: An existing directory of the test's own.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = directory / "guix"
        source = Path(__file__).read_text(encoding="utf-8")
        self.program.write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
        self.program.chmod(0o755)
        self.environment = {"GUIX": str(self.program), "SHELF": str(directory)}

    def offer(
        self, path: str, content: bytes | Path, *references: str, deriver: str = "", **lies: Any
    ) -> str:
        """Offer an item with the given content; return the hash that is announced."""
        name = os.path.basename(path)
        target = self.directory / f"{name}.contents"
        if isinstance(content, Path):
            shutil.copytree(content, target, symlinks=True)
        else:
            target.write_bytes(content)
        archive = archive_of(target)
        known = {
            "deriver": deriver,
            "references": list(references),
            "download": len(archive) // 2,
            "size": len(archive),
            "hash": f"sha256:{base32(hashlib.sha256(archive).digest())}",
            **{key.replace("_", "-"): value for key, value in lies.items()},
        }
        temporary = self.directory / f".{name}"
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.rename(self.directory / f"{name}.json")
        return str(known["hash"])

    def withdraw(self, path: str) -> None:
        """Offer an item no longer."""
        (self.directory / f"{os.path.basename(path)}.json").unlink()

    def requests(self, command: str = "") -> list[str]:
        """Return what was asked, in order."""
        return [line for _, line, _ in self.notes() if line.startswith(command)]

    def notes(self) -> list[tuple[int, str, str]]:
        """Return process, line and options of each request and start."""
        file = self.directory / "requests"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [tuple(json.loads(line)) for line in lines]


def archive_of(path: Path) -> bytes:
    """Return the archive form of a small tree."""
    return _word(b"nix-archive-1") + _node(path)


def _node(path: Path) -> bytes:
    if path.is_symlink():
        target = os.fsencode(os.readlink(path))
        return _words(b"(", b"type", b"symlink", b"target", target, b")")
    if path.is_file():
        executable = (b"executable", b"") if path.stat().st_mode & 0o100 else ()
        contents = path.read_bytes()
        return _words(b"(", b"type", b"regular", *executable, b"contents", contents, b")")
    entries = [
        _words(b"entry", b"(", b"name", name, b"node")
        + _node(path / os.fsdecode(name))
        + _word(b")")
        for name in sorted(os.listdir(os.fsencode(path)))
    ]
    return _words(b"(", b"type", b"directory") + b"".join(entries) + _word(b")")


def _words(*words: bytes) -> bytes:
    return b"".join(map(_word, words))


def _word(word: bytes) -> bytes:
    return len(word).to_bytes(8, "little") + word + bytes(-len(word) % 8)


def base32(digest: bytes) -> str:
    """Write a hash as narinfos do."""
    number = int.from_bytes(digest, "little")
    length = (len(digest) * 8 + 4) // 5
    return "".join(_DIGITS[number >> 5 * i & 31] for i in reversed(range(length)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
