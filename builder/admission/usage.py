# SPDX-License-Identifier: GPL-3.0-or-later
"""What a builder has used: memory and processor time."""

import resource
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from builder.memory.meters import Meter

_KIB = 1024


class Usage(NamedTuple):
    """What a builder and its children have used.

    Attributes:
        peak_memory: The most bytes of memory at once; of the largest process alone, where
            nothing better is known.
        cpu_seconds: Processor time.
        oom_kills: Processes that the kernel ended for want of memory, as far as is known.
        is_limited: Whether its memory was limited, more than the machine's is.
    """

    peak_memory: int
    cpu_seconds: float
    oom_kills: int = 0
    is_limited: bool = False

    @classmethod
    def of_process(cls, used: resource.struct_rusage, meter: "Meter") -> "Usage":
        """Take what the kernel says of a process that was waited for, and what was measured."""
        return cls(
            max(used.ru_maxrss * _KIB, meter.peak),
            used.ru_utime + used.ru_stime,
            meter.oom_kills,
            meter.is_limited,
        )
