# SPDX-License-Identifier: GPL-3.0-or-later
"""Which systems a machine can build for, and how a builder for one must be run. Pure."""

from dataclasses import dataclass

from builder.container import Persona, Personality

NARROWER = {"x86_64-linux": "i686-linux", "aarch64-linux": "armhf-linux"}
"""For a 64-bit system, the 32-bit one whose programs its processors run too."""

SYSTEMS = {
    "x86_64": "x86_64-linux",
    "i686": "i686-linux",
    "i586": "i686-linux",
    "aarch64": "aarch64-linux",
    "armv7l": "armhf-linux",
    "ppc64le": "powerpc64le-linux",
    "ppc": "powerpc-linux",
    "riscv64": "riscv64-linux",
    "loongarch64": "loongarch64-linux",
}
"""The names Guix gives to what the kernel calls its machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that builds: its system, and the machine name of its kernel."""

    system: str
    kernel_machine: str

    def can_build(self, system: str) -> bool:
        """Tell whether builders for `system` run here without emulation."""
        return system == self.system or NARROWER.get(self.system) == system

    def may_execute(self, system: str) -> bool:
        """Tell whether it makes sense to try: the same kernel, so binfmt_misc may emulate it.

        A program for another kernel is often indistinguishable from a native
        one, and would start only to crash.
        """
        return system.partition("-")[2] == self.system.partition("-")[2]

    def personality(self, system: str, *, impersonate_linux_26: bool) -> Personality:
        """Return the execution domain for a builder: 32 bits where its system has them."""
        return Personality(
            persona=Persona.LINUX_32 if self._is_narrower(system) else Persona.LINUX,
            linux_26=impersonate_linux_26 and system in {"i686-linux", "x86_64-linux"},
        )

    def _is_narrower(self, system: str) -> bool:
        wide = SYSTEMS.get(self.kernel_machine, self.system)
        return system in (NARROWER.get(self.system), NARROWER.get(wide))


def native_system(kernel_machine: str) -> str:
    """Return the system name for a kernel's machine name, as `uname -m` prints it."""
    return SYSTEMS.get(kernel_machine, f"{kernel_machine}-linux")
