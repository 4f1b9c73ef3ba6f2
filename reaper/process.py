# SPDX-License-Identifier: GPL-3.0-or-later
"""A child process as the rest of the daemon sees it.

Only the process monitor makes and completes these objects, and only it reaps. So a process
without a status is not reaped, and its pid is still its own: a signal cannot go astray.
"""

import dataclasses
import os
import resource
import signal

import trio


@dataclasses.dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended.

    Attributes:
        code: The exit code; None if a signal ended the process.
        signal: The number of that signal; None if the process exited.
        rusage: What the process and the children it waited for consumed.
    """

    code: int | None
    signal: int | None
    rusage: resource.struct_rusage

    @classmethod
    def from_wait(cls, status: int, rusage: resource.struct_rusage) -> "ExitStatus":
        """Translate what wait4 gave."""
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status), rusage)
        return cls(os.WEXITSTATUS(status), None, rusage)

    @property
    def succeeded(self) -> bool:
        """Whether the process exited with code 0."""
        return self.code == 0

    def describe(self) -> str:
        """Say how the process ended, to go after its name."""
        if self.signal is None:
            return f"exited with code {self.code}"
        return f"was ended by signal {self.signal} ({signal.strsignal(self.signal) or 'unknown'})"


class Process:
    """A child; made by `ProcessMonitor.register`.

    Attributes:
        pid: Its process id, reserved until `status` is set.
    """

    __slots__ = ("_ended", "_pidfd", "_status", "pid")

    def __init__(self, pid: int, pidfd: int | None = None) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._status: ExitStatus | None = None
        self._ended = trio.Event()

    def __repr__(self) -> str:
        state = "running" if self._status is None else self._status.describe()
        return f"<Process {self.pid}: {state}>"

    @property
    def status(self) -> ExitStatus | None:
        """How the process ended; None while it runs."""
        return self._status

    async def wait(self) -> ExitStatus:
        """Wait until the process has ended; any number of tasks may wait, as often as they like.

        Where it has ended already this is no checkpoint, which would cost a pass of the loop.
        """
        if self._status is None:
            await self._ended.wait()
        assert self._status is not None
        return self._status

    def send_signal(self, number: int) -> bool:
        """Send a signal, unless the process has ended; say whether it was sent.

        Raises:
            PermissionError: The process has changed its user, and we have no rights over it.
        """
        if self._status is not None:
            return False
        if self._pidfd is None:
            os.kill(self.pid, number)
        else:
            signal.pidfd_send_signal(self._pidfd, number)
        return True

    def kill(self) -> bool:
        """Send SIGKILL, unless the process has ended; say whether it was sent."""
        return self.send_signal(signal.SIGKILL)

    def complete(self, status: ExitStatus) -> None:
        """Record the end; for the process monitor only."""
        assert self._status is None
        self._status = status
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self._ended.set()
