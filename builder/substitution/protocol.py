# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines that ``guix substitute`` reads and writes, without I/O.

With ``--query`` it reads ``info PATH …``; the answer on its second pipe is a
record for each item it has (path, deriver or nothing, number of references, the
references, bytes to download, bytes of the NAR) and then an empty line. With
``--substitute`` it reads ``substitute PATH DESTINATION`` and answers in a line:
``success HASH SIZE``, ``hash-mismatch ALGORITHM EXPECTED ACTUAL`` or
``not-found``. Progress and complaints come on its output, as lines that a
carriage return may end as well. Settings are in the variable ``_NIX_OPTIONS``.
Entry points: `info_request`, `OfferReader`, `parse_outcome`, `LineSplitter`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from builder.substitution.offers import Offer
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.paths import StoreDirectory, StorePath

OPTIONS_VARIABLE = "_NIX_OPTIONS"

MAX_REFERENCES = 100_000
"""Of one item; the largest known have some thousands."""
MAX_SIZE = 2**64 - 1
"""Bytes; what the wire can hold. Only what was measured gets into the database."""
MAX_OUTPUT_LINE = 64 * 1024
"""Bytes of output without a line's end that are kept; more counts as a line."""

_CONTROL = str.maketrans(dict.fromkeys(range(32), " "))


class SubstituteProtocolError(StoreError):
    """A substitute program said what makes no sense."""

    default_reason = "substitute-protocol"


def options_text(settings: Iterable[tuple[str, str]]) -> str:
    """Return the value of `OPTIONS_VARIABLE`; what a line cannot hold is left out.

    As in the reference, except that ``deduplicate`` is not among them: to guix its
    mere presence is a yes, and deduplication is the store workers' business.
    """
    return "".join(f"{name}={value}\n" for name, value in settings if _fits(name, value))


def _fits(name: str, value: str) -> bool:
    return not ({"\n", "=", "\0"} & set(name) or {"\n", "\0"} & set(value))


def info_request(paths: Iterable[StorePath]) -> bytes:
    """Return the line that asks for everything known of some items."""
    return f"info {' '.join(paths)}\n".encode()


def substitute_request(path: StorePath, destination: str) -> bytes:
    """Return the line that asks for a download."""
    return f"substitute {path} {destination}\n".encode()


class OfferReader:
    """Reads the answer to `info_request`: feed it lines until it is `done`.

    Args:
        directory: The store's paths.
        asked: The items asked for; others are an error.
    """

    def __init__(self, directory: StoreDirectory, asked: Iterable[StorePath]) -> None:
        self._directory = directory
        self._awaited = set(asked)
        self._record: list[str] = []
        self._references = 0
        self.offers: dict[StorePath, Offer] = {}
        self.done = False

    def feed(self, line: str) -> None:
        """Take a line, without its newline.

        Raises:
            SubstituteProtocolError: It is not what has to come.
        """
        record = self._record
        if not record and not line:
            self.done = True
            return
        if not record and line not in self._awaited:
            raise SubstituteProtocolError(f"got unexpected path `{line:.200}' from substituter")
        record.append(line)
        if len(record) == 3:
            self._references = _number(line, MAX_REFERENCES)
        if len(record) == 5 + self._references and len(record) > 3:
            self._finish(record)
            self._record, self._references = [], 0

    def _finish(self, record: list[str]) -> None:
        path, deriver, _, *references, download, size = record
        self._awaited.discard(StorePath(path))
        self.offers[StorePath(path)] = Offer(
            StorePath(path),
            self._deriver(deriver),
            frozenset(map(self._path, references)),
            _number(download, MAX_SIZE),
            _number(size, MAX_SIZE),
        )

    def _deriver(self, text: str) -> StorePath | None:
        """Read who made an item, which nothing depends on; servers get it wrong."""
        try:
            return self._directory.parse(text) if text else None
        except StoreError:
            return None

    def _path(self, text: str) -> StorePath:
        try:
            return self._directory.parse(text)
        except StoreError as error:
            raise SubstituteProtocolError(
                f"got invalid path `{text:.200}' from substituter"
            ) from error


def _number(text: str, limit: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= limit:
        return int(text)
    raise SubstituteProtocolError(f"integer expected from stream: {text:.80}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A download is said to have succeeded, with this hash of its NAR form."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What was downloaded has another hash than was announced."""

    algorithm: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True)
class NotFetched:
    """Nothing was downloaded."""


Outcome = Fetched | Mismatch | NotFetched


def parse_outcome(line: str) -> Outcome:
    """Read the answer to `substitute_request`.

    Raises:
        SubstituteProtocolError: It is none.
    """
    match line.split():
        case ["success", digest, _size]:
            # The size is only a claim; whoever hashes what was written measures it, too.
            return Fetched(_digest(digest))
        case ["hash-mismatch", algorithm, expected, actual]:
            return Mismatch(algorithm[:16], expected[:200], actual[:200])
        case ["not-found"]:
            return NotFetched()
    raise SubstituteProtocolError(f"got unexpected status `{line:.200}' from substituter")


def _digest(text: str) -> Digest:
    algorithm, _, digits = text.partition(":")
    try:
        return Digest.parse(HashAlgorithm.parse(algorithm), digits)
    except StoreError as error:
        raise SubstituteProtocolError(f"bad hash from substituter: {text:.200}") from error


def printable_status(line: str) -> str:
    """Return a status line as it may stand in a trace."""
    return line[:200].translate(_CONTROL).strip()


class LineSplitter:
    """Cuts output into lines, each with its end, so that two programs' output can be mixed."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete."""
        self._rest += data
        *lines, self._rest = self._rest.splitlines(keepends=True) or [b""]
        if self._rest.endswith((b"\n", b"\r")) or len(self._rest) > MAX_OUTPUT_LINE:
            lines.append(self._rest)
            self._rest = b""
        yield from lines

    def rest(self) -> bytes:
        """Return what came after the last line's end."""
        rest, self._rest = self._rest, b""
        return rest


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is; `size` is None where that is not known.

    `phase` is ``started``, ``progress`` or ``succeeded``.
    """

    phase: str
    url: str
    size: int | None
    transferred: int


def parse_progress(line: bytes) -> Progress | None:
    """Read ``@ download-started|progress|succeeded FILE URL SIZE [TRANSFERRED]``."""
    match line.decode("utf-8", "replace").split():
        case ["@", "download-started", _, url, size]:
            return Progress("started", url[:2000], _amount(size), 0)
        case ["@", "download-progress", _, url, size, transferred]:
            done = _amount(transferred) or 0
            return Progress("progress", url[:2000], _amount(size), done)
        case ["@", "download-succeeded", _, url, size, *_]:
            return Progress("succeeded", url[:2000], _amount(size), _amount(size) or 0)
    return None


def _amount(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def program_environment(
    environment: Mapping[str, str], settings: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Return the environment of a substitute program that gets these settings."""
    return {**environment, OPTIONS_VARIABLE: options_text(settings)}
