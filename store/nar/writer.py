# SPDX-License-Identifier: GPL-3.0-or-later
"""Write archives: events in, canonical bytes out, without any I/O.

The events must come in the order `events` describes. What they leave open is
asserted, not reported: whoever makes events from outside has already checked them.
"""

from collections.abc import Iterable, Iterator

from store.nar import format as nar
from store.nar.events import Content, Directory, NarEvent, Regular, Symlink

# So many pieces of structure are gathered where no content comes between them.
_MAX_PENDING = 256


def write(events: Iterable[NarEvent]) -> Iterator[bytes | memoryview]:
    """Write the archive that some events describe.

    Args:
        events: Those of one whole archive.

    Yields:
        Its bytes, in order: some for the structure, and the content uncopied, so
        that a piece is valid only until the next one is asked for.
    """
    writer = _Writer()
    for event in events:
        if isinstance(event, Content):
            if writer.pending:
                yield writer.take()
            writer.count(len(event.data))
            yield event.data
        else:
            writer.add(event)
            if len(writer.pending) >= _MAX_PENDING:
                yield writer.take()
    assert writer.complete
    yield writer.take()


class _Writer:
    """Collects the structure between two pieces of content."""

    __slots__ = ("_padding", "_previous", "_remaining", "complete", "pending")

    def __init__(self) -> None:
        self.pending: list[bytes] = [nar.MAGIC.data]
        self._previous: list[bytes] = []
        self._remaining = 0
        self._padding = b""
        self.complete = False

    def take(self) -> bytes:
        data = b"".join(self.pending)
        self.pending.clear()
        return data

    def count(self, size: int) -> None:
        assert 0 < size <= self._remaining
        self._remaining -= size
        if not self._remaining:
            self._close(self._padding)

    def add(self, event: NarEvent) -> None:
        assert not self._remaining
        if isinstance(event, Regular):
            self._open_node(event.name)
            self._begin_file(event)
        elif isinstance(event, Symlink):
            self._open_node(event.name)
            self.pending += (nar.SYMLINK.data, nar.encode_string(event.target))
            self._close()
        elif isinstance(event, Directory):
            self._open_node(event.name)
            self.pending.append(nar.DIRECTORY.data)
            self._previous.append(b"")
        else:
            self._previous.pop()
            self._close()

    def _begin_file(self, event: Regular) -> None:
        head = nar.EXECUTABLE if event.executable else nar.REGULAR
        self.pending += (head.data, event.size.to_bytes(8, "little"))
        self._remaining = event.size
        self._padding = nar.PADDINGS[event.size & 7]
        if not event.size:
            self._close()

    def _open_node(self, name: bytes) -> None:
        if not self._previous:
            assert not name
            assert not self.complete
            return
        assert name > self._previous[-1]
        self._previous[-1] = name
        self.pending += (nar.ENTRY.data, nar.encode_string(name), nar.NODE.data)

    def _close(self, padding: bytes = b"") -> None:
        closing = nar.CLOSE_ENTRY if self._previous else nar.CLOSE_ROOT
        self.pending.append(padding + closing.data)
        self.complete = not self._previous
