# SPDX-License-Identifier: GPL-3.0-or-later
"""Fulfilling `SealOutputs`: in a worker, or in the daemon where there is next to nothing to do.

A message to a worker and back takes 0.6 ms between builds, since that process has to be
woken; sealing a small file takes 0.02 ms. Entry points: `seal`, `seal_small`.
"""

import os
from collections.abc import Sequence

from locker.errors import MessageError
from store.errors import StoreError
from store.links import Links
from store.paths import HASH_PART_LENGTH
from store.sealing.seal import Directories, SealError, seal_outputs
from store.sealing.small import is_small
from store.worker.messages import (
    Failure,
    OutputToSeal,
    SealedOutput,
    SealOutputs,
    SealOutputsReply,
)

_FEW_OUTPUTS = 4
_FEW_CANDIDATES = 256 * (HASH_PART_LENGTH + 1)
"""Bytes of candidates; more take longer to prepare the search for than a message does."""


def seal_small(request: SealOutputs, outputs_fd: int) -> SealOutputsReply | None:
    """Seal outputs if that takes less time than asking for it; None if it does not.

    Nobody may be able to change the outputs any more.
    """
    if len(request.outputs) > _FEW_OUTPUTS or len(request.candidates) > _FEW_CANDIDATES:
        return None
    if not all(_is_small(output, outputs_fd) for output in request.outputs):
        return None
    # Small files are neither copied nor shared.
    return _seal(request, Directories(outputs_fd, outputs_fd, None))


def _is_small(output: OutputToSeal, outputs_fd: int) -> bool:
    if output.copy:
        return False
    try:
        return is_small(os.lstat(output.name, dir_fd=outputs_fd))
    except OSError:
        return False


def seal(request: SealOutputs, fds: Sequence[int]) -> SealOutputsReply:
    """Seal outputs.

    Args:
        request: What to seal.
        fds: What `SealOutputs` names; they remain the caller's.

    Raises:
        MessageError: The descriptors are not those.
    """
    if len(fds) not in (2, 3):
        raise MessageError(f"{len(fds)} descriptors beside SealOutputs")
    links = Links(fds[2]) if len(fds) == 3 else None
    return _seal(request, Directories(fds[0], fds[1], links))


def _seal(request: SealOutputs, where: Directories) -> SealOutputsReply:
    sealed: list[SealedOutput] = []
    try:
        for output in seal_outputs(request, where):
            sealed.append(output)  # noqa: PERF402 - an error must not lose those before it
    except (StoreError, OSError) as error:
        failure = failure_of(error, request.outputs[len(sealed)].name)
        return SealOutputsReply(tuple(sealed), failure)
    return SealOutputsReply(tuple(sealed), None)


def failure_of(error: StoreError | OSError, output: str = "") -> Failure:
    """Describe why a request could not be fulfilled, and for which output."""
    if isinstance(error, StoreError):
        actual = error.actual if isinstance(error, SealError) else b""
        return Failure(error.reason, error.message, output, actual)
    return Failure("system", _describe(error), output)


def _describe(error: OSError) -> str:
    name = f"`{os.fsdecode(error.filename)}': " if isinstance(error.filename, str | bytes) else ""
    return f"{name}{error.strerror}"
