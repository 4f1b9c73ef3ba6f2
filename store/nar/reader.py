# SPDX-License-Identifier: GPL-3.0-or-later
"""Read archives strictly, from bytes that come in pieces of any size.

This is the only reader of the project: every archive from a client, a
substitute or a file passes through it. It accepts exactly what the canonical
writer would write. It never recurses, keeps no more than one name or link
target of an archive, and uses a length only after comparing it with a limit.
Enter through `NarReader`.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from store.errors import NarError
from store.nar import format as nar
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular, Symlink

_U64 = struct.Struct("<Q")

# How much of the input is copied at a time to be searched for structure. Content
# that goes on beyond it is passed on uncopied.
_WINDOW = 1 << 16


@dataclass(frozen=True, slots=True)
class NarLimits:
    """How large the parts of an archive may be.

    Attributes:
        depth: Directories within each other, the outermost counted. It also
            bounds the file descriptors of whoever restores the archive.
        word: Bytes of a word of the format; the longest there is has 13.
        name: Bytes of a file name; Linux has no longer ones.
        target: Bytes of a link target; Linux has no longer ones.
        file_size: Bytes of one file; what fits in a signed 64-bit offset.
    """

    depth: int = 64
    word: int = 32
    name: int = 255
    target: int = 4095
    file_size: int = (1 << 63) - 1


DEFAULT_LIMITS: Final = NarLimits()

_REGULAR, _EXECUTABLE, _DIRECTORY, _SYMLINK = range(4)
_HEADS = (nar.REGULAR, nar.EXECUTABLE, nar.DIRECTORY, nar.SYMLINK)
_ROOT_HEADS: Final = tuple(nar.MAGIC + head for head in _HEADS)
_ENTRY_HEADS: Final = tuple(nar.NODE + head for head in _HEADS)

_ENTRY, _CLOSE = range(2)
_ENTRY_OR_CLOSE_ROOT: Final = (nar.ENTRY, nar.CLOSE_ROOT)
_ENTRY_OR_CLOSE_ENTRY: Final = (nar.ENTRY, nar.CLOSE_ENTRY)
_CLOSE_ROOT: Final = (nar.CLOSE_ROOT,)
_CLOSE_ENTRY: Final = (nar.CLOSE_ENTRY,)

_MISSING = -1

_FORBIDDEN_NAMES: Final = (b"", b".", b"..")


class NarReader:
    """Turns the bytes of one archive into events.

    Feed it bytes until it is `finished`, then look at `excess`; at the end of
    the input call `end`. After an error it is of no more use.

    Args:
        limits: How large the parts may be.
    """

    __slots__ = (
        "_buffer",
        "_directories",
        "_events",
        "_executable",
        "_limits",
        "_name",
        "_origin",
        "_padding",
        "_position",
        "_previous",
        "_remaining",
        "_state",
        "excess",
        "finished",
    )

    def __init__(self, limits: NarLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer = b""
        self._position = 0
        self._origin = 0
        self._events: list[NarEvent] = []
        self._directories: list[bytes] = []
        self._previous: list[bytes] = []
        self._name = b""
        self._executable = False
        self._remaining = 0
        self._padding = 0
        self._state: Callable[[NarReader], bool] = NarReader._read_head
        #: Whether the archive is complete.
        self.finished = False
        #: How many of the bytes fed last lie behind the archive's end.
        self.excess = 0

    @property
    def consumed(self) -> int:
        """The bytes of the archive read so far; its size, once it is finished."""
        return self._origin + self._position

    def feed(self, data: bytes | bytearray | memoryview) -> list[NarEvent]:
        """Read some more of the archive.

        Args:
            data: The next bytes, of any number; those behind the end are not touched.

        Returns:
            What they say. `Content` may refer to `data` itself, so use it before
            `data` is overwritten.

        Raises:
            NarError: The archive is not canonical or exceeds a limit; the message
                names the fault, the path in the archive, and the byte.
        """
        source = memoryview(data)
        self._events, taken = [], 0
        while not self.finished:
            while self._state(self):
                pass
            if taken == len(source) or self.finished:
                break
            if self._state is NarReader._read_content:
                taken += self._pass_content(source[taken:])
            else:
                taken += self._refill(source[taken:])
        self._drop_read_bytes()
        if self.finished:
            self.excess = len(self._buffer) + len(source) - taken
            self._buffer = b""
        return self._events

    def end(self) -> None:
        """Say that no more bytes will come.

        Raises:
            NarError: The archive is not complete.
        """
        if not self.finished:
            raise self._fault("it ends before it is complete", self.consumed + len(self._buffer))

    def _pass_content(self, source: memoryview) -> int:
        """Pass on content that is not in the buffer, which is empty."""
        content = source[: self._remaining]
        self._events.append(Content(content))
        self._origin += len(content)
        self._count_content(len(content))
        return len(content)

    def _refill(self, source: memoryview) -> int:
        window = source[:_WINDOW]
        self._drop_read_bytes()
        self._buffer += window
        return len(window)

    def _drop_read_bytes(self) -> None:
        self._origin += self._position
        self._buffer = self._buffer[self._position :]
        self._position = 0

    # Each state reads one phrase or variable part at the position, settles what
    # comes next, and returns whether it could; False means that bytes are missing.

    def _read_head(self) -> bool:
        head = self._match(_ENTRY_HEADS if self._directories else _ROOT_HEADS)
        if head == _MISSING:
            return False
        if head == _DIRECTORY:
            self._open_directory()
        elif head == _SYMLINK:
            self._state = NarReader._read_target
        else:
            self._executable = head == _EXECUTABLE
            self._state = NarReader._read_size
        return True

    def _open_directory(self) -> None:
        if len(self._directories) == self._limits.depth:
            raise self._fault(f"it has more than {self._limits.depth} directories in each other")
        self._directories.append(self._name)
        self._previous.append(b"")
        self._events.append(Directory(self._name))
        self._state = NarReader._read_entry

    def _read_entry(self) -> bool:
        in_entry = len(self._directories) > 1
        found = self._match(_ENTRY_OR_CLOSE_ENTRY if in_entry else _ENTRY_OR_CLOSE_ROOT)
        if found == _MISSING:
            return False
        if found == _ENTRY:
            self._state = NarReader._read_name
            return True
        self._directories.pop()
        self._previous.pop()
        self._events.append(DirectoryEnd())
        return self._complete_node()

    def _read_name(self) -> bool:
        name = self._string(self._limits.name, "file name")
        if name is None:
            return False
        previous = self._previous[-1]
        if name <= previous or name in _FORBIDDEN_NAMES or b"/" in name or b"\0" in name:
            raise self._name_fault(name, previous)
        self._name = self._previous[-1] = name
        self._state = NarReader._read_head
        return True

    def _read_target(self) -> bool:
        target = self._string(self._limits.target, "link target")
        if target is None:
            return False
        if not target or b"\0" in target:
            raise self._fault("a link target is empty or holds a NUL")
        self._events.append(Symlink(self._name, target))
        self._state = NarReader._read_close
        return True

    def _read_size(self) -> bool:
        if len(self._buffer) - self._position < 8:
            return False
        (size,) = _U64.unpack_from(self._buffer, self._position)
        if size > self._limits.file_size:
            raise self._fault(f"a file of {size} bytes, where {self._limits.file_size} are allowed")
        self._position += 8
        self._events.append(Regular(self._name, self._executable, size))
        self._padding = -size % 8
        self._remaining = size
        self._state = NarReader._read_content if size else NarReader._read_close
        return True

    def _read_content(self) -> bool:
        start = self._position
        content = memoryview(self._buffer)[start : start + self._remaining]
        if not content:
            return False
        self._events.append(Content(content))
        self._position = start + len(content)
        self._count_content(len(content))
        return True

    def _count_content(self, size: int) -> None:
        self._remaining -= size
        if not self._remaining:
            self._state = NarReader._read_padding if self._padding else NarReader._read_close

    def _read_padding(self) -> bool:
        end = self._position + self._padding
        if len(self._buffer) < end:
            return False
        self._check_padding(self._position, end)
        self._position = end
        self._state = NarReader._read_close
        return True

    def _read_close(self) -> bool:
        if self._match(_CLOSE_ENTRY if self._directories else _CLOSE_ROOT) == _MISSING:
            return False
        return self._complete_node()

    def _complete_node(self) -> bool:
        self.finished = not self._directories
        self._name = b""
        self._state = NarReader._read_entry
        return not self.finished

    def _match(self, phrases: Sequence[nar.Phrase]) -> int:
        """Read one of some phrases; return its index."""
        buffer, position = self._buffer, self._position
        for index, phrase in enumerate(phrases):
            if buffer.startswith(phrase.data, position):
                self._position = position + len(phrase.data)
                return index
        rest = buffer[position:]
        if any(phrase.data.startswith(rest) for phrase in phrases):
            return _MISSING
        raise self._phrase_fault(phrases)

    def _string(self, limit: int, what: str) -> bytes | None:
        """Read a string of at most `limit` bytes; None if it is not all there."""
        buffer, start = self._buffer, self._position + 8
        if len(buffer) < start:
            return None
        (size,) = _U64.unpack_from(buffer, self._position)
        if size > limit:
            raise self._fault(f"a {what} of {size} bytes, where {limit} are allowed")
        end = start + size
        padded_end = end + (-size & 7)
        if len(buffer) < padded_end:
            return None
        self._check_padding(end, padded_end)
        self._position = padded_end
        return buffer[start:end]

    def _check_padding(self, start: int, end: int) -> None:
        if self._buffer[start:end].strip(b"\0"):
            raise self._fault("padding that is not zero", self._origin + start)

    def _name_fault(self, name: bytes, previous: bytes) -> NarError:
        shown = name.decode("utf-8", "backslashreplace")
        if name in _FORBIDDEN_NAMES or b"/" in name or b"\0" in name:
            return self._fault(f"NAR contains invalid file name `{shown}'")
        if name == previous:
            return self._fault(f"the file name `{shown}' occurs twice")
        return self._fault(f"NAR directory is not sorted: `{shown}' comes late")

    def _phrase_fault(self, phrases: Sequence[nar.Phrase]) -> NarError:
        data = self._buffer[self._position :]
        mismatch = nar.find_mismatch(data, phrases)
        expected = " or ".join(f"`{word.decode()}'" for word in mismatch.expected)
        offset = self.consumed + mismatch.offset
        if mismatch.expected == nar.MAGIC.words:
            return self._fault("input doesn't look like a normalized archive", offset)
        found = self._describe(data[mismatch.offset :], mismatch.expected)
        return self._fault(f"expected {expected}, not {found}", offset)

    def _describe(self, data: bytes, expected: Sequence[bytes]) -> str:
        if len(data) < 8:
            return "a string of another length"
        (size,) = _U64.unpack_from(data)
        if size > self._limits.word:
            return f"a string of {size} bytes"
        word = data[8 : 8 + size]
        blemish = " with padding that is not zero" if word in expected else ""
        return f"`{word.decode('utf-8', 'backslashreplace')}'{blemish}"

    def _fault(self, what: str, offset: int | None = None) -> NarError:
        path = b"/".join([*self._directories, self._name][1:]).decode("utf-8", "backslashreplace")
        where = f"byte {self.consumed if offset is None else offset}"
        return NarError(f"bad archive: {what} ({where}, in `/{path}')")
