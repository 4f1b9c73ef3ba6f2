# SPDX-License-Identifier: GPL-3.0-or-later
"""What a builder has used: memory and processor time."""

import resource
from dataclasses import dataclass

_KIB = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What a builder and its children have used.

    Attributes:
        peak_memory: The most bytes of memory at once; of the largest process alone, where
            nothing better is known.
        cpu_seconds: Processor time.
    """

    peak_memory: int
    cpu_seconds: float

    @classmethod
    def of_process(cls, used: resource.struct_rusage) -> "Usage":
        """Take what the kernel says of a process that was waited for."""
        return cls(used.ru_maxrss * _KIB, used.ru_utime + used.ru_stime)
