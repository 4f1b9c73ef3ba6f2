# SPDX-License-Identifier: GPL-3.0-or-later
"""The one writer of this process: transactions in turn, patience with other processes.

Tasks take turns by a `FairLock`. Only another process, which nobody here can
hear finish, is met with growing delays. A small change is made on the event
loop, where it costs less than handing it to a thread would; a big one in one.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import apsw
import trio

from store.database.checkpoints import Checkpointer
from store.database.fairlock import FairLock
from store.errors import DatabaseError

_FIRST_DELAY = 0.001
_LONGEST_DELAY = 0.25

Result = TypeVar("Result")
Change = Callable[[apsw.Connection], Result]


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """How writing goes.

    Attributes:
        transactions: Committed ones.
        waiting: Tasks in line now.
        waited: Transactions that had to stand in line.
        busy: How often another process held the database.
        checkpoints: How often the log was moved into the database.
        checkpoint_failure: Why that failed the last time; None where it did not.
    """

    transactions: int
    waiting: int
    waited: int
    busy: int
    checkpoints: int
    checkpoint_failure: str | None


class Writer:
    """Runs changes, one transaction each.

    Args:
        quick: The connection for small changes, used on the event loop only.
        thorough: The connection for big ones, used in threads only.
        lock: Taken for each transaction.
        checkpointer: Told of each.
    """

    def __init__(
        self,
        quick: apsw.Connection,
        thorough: apsw.Connection,
        lock: FairLock,
        checkpointer: Checkpointer,
    ) -> None:
        self._quick = quick
        self._thorough = thorough
        self._lock = lock
        self._checkpointer = checkpointer
        self._transactions = 0
        self._busy = 0
        self.writing = False

    async def run(self, change: Change[Result], *, big: bool = False) -> Result:
        """Make a change in a transaction of its own.

        It is committed when this returns, and rolled back when it raises.
        """
        if not self._lock.try_acquire():
            await self._lock.acquire()
        try:
            delay = _FIRST_DELAY
            while True:
                try:
                    result = await self._in_thread(change) if big else self._at_once(change)
                    break
                except apsw.BusyError:
                    self._busy += 1
                    # Two processes that wait for each other's pauses must not march in step.
                    await trio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                    delay = min(delay * 2, _LONGEST_DELAY)
        finally:
            self._lock.release()
        self._transactions += 1
        self._checkpointer.wake()
        return result

    async def _in_thread(self, change: Change[Result]) -> Result:
        return await trio.to_thread.run_sync(transact, self._thorough, change)

    def _at_once(self, change: Change[Result]) -> Result:
        self.writing = True
        try:
            return transact(self._quick, change)
        finally:
            self.writing = False

    def statistics(self) -> WriterStatistics:
        """Tell how writing goes."""
        lock = self._lock.statistics()
        return WriterStatistics(
            transactions=self._transactions,
            waiting=lock.waiting,
            waited=lock.waited,
            busy=self._busy,
            checkpoints=self._checkpointer.done,
            checkpoint_failure=self._checkpointer.failure,
        )


def transact(connection: apsw.Connection, change: Change[Result]) -> Result:
    """Make a change in a transaction, rolled back on any error.

    Raises:
        apsw.BusyError: Another process is writing; nothing was changed.
        DatabaseError: SQLite refused.
    """
    # This is on the way of every addition: `translated_errors` would cost a tenth of it.
    execute = connection.cursor().execute
    try:
        execute("begin immediate")
        try:
            result = change(connection)
            execute("commit")
        except BaseException:
            # Some errors, such as a full disk, make SQLite roll back by itself.
            if not connection.getautocommit():
                connection.execute("rollback")
            raise
    except apsw.BusyError:
        raise
    except apsw.Error as error:
        raise DatabaseError(f"cannot change the store database: {error}") from error
    return result
