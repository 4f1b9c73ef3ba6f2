# SPDX-License-Identifier: GPL-3.0-or-later
"""Emptying the trash: the long part of a collection, during which nobody has to wait.

Store workers delete in the background, a few things at a time each. Entry
point: `empty_trash`.
"""

import os
from contextlib import suppress

from store.collection.events import Emptied, Remark, Report
from store.collection.sweep import Tools
from store.collection.trash import NAME
from store.files import open_directory
from store.spreading import spread
from store.worker.messages import DeleteEntriesReply

_BATCH = 256


async def empty_trash(tools: Tools, report: Report) -> int:
    """Delete all that lies in the trash, then the trash; return the bytes freed.

    What cannot be deleted stays there, with a remark, until the next time.
    """
    try:
        trash = open_directory(tools.store_fd, NAME)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        emptying = _Emptying(tools, trash, report)
        await emptying.run()
    finally:
        os.close(trash)
    with suppress(OSError):
        # Another collector may be filling it, or something in it could not be deleted.
        os.rmdir(NAME, dir_fd=tools.store_fd)
    return emptying.freed


class _Emptying:
    def __init__(self, tools: Tools, trash: int, report: Report) -> None:
        self._tools = tools
        self._trash = trash
        self._report = report
        self._done = 0
        self.freed = 0

    async def run(self) -> None:
        batches = self._tools.trash.contents(_BATCH)
        width = self._tools.workers.background_width
        async with spread(width, batches, self._delete) as replies:
            async for count, reply in replies:
                self._done += count
                self.freed += reply.freed
                if reply.failure is not None:
                    where = f"{self._tools.store}/{NAME}"
                    text = f"warning: something stays in `{where}': {reply.failure.message}"
                    await self._report(Remark(text, important=True))
                await self._report(Emptied(self._done, self.freed))

    async def _delete(self, names: list[str]) -> tuple[int, DeleteEntriesReply]:
        return len(names), await self._tools.workers.delete_entries(self._trash, names)
