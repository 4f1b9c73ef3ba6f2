# SPDX-License-Identifier: GPL-3.0-or-later
"""Where this process's memory cgroup is, by ``/proc/self/cgroup`` and ``mountinfo``. Pure.

Entry point: `find_place`.
"""

from dataclasses import dataclass

_ESCAPES = ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\"))


@dataclass(frozen=True, slots=True)
class Place:
    """A cgroup that memory is counted in, or may be.

    Attributes:
        version: Of the interface, 1 or 2.
        directory: The cgroup's.
        top: Where its hierarchy is mounted; `directory` is that or below.
    """

    version: int
    directory: str
    top: str

    @property
    def ancestry(self) -> tuple[str, ...]:
        """The directories of the cgroup and of those that it is in, the innermost first."""
        found = [self.directory]
        while found[-1] != self.top:
            found.append(found[-1].rpartition("/")[0])
        return tuple(found)


def find_place(cgroups: str, mounts: str) -> Place | None:
    """Return the cgroup that counts this process's memory, or None where none is to be seen.

    Version 1 goes first, for where both are mounted it is the one that has the controller.

    Args:
        cgroups: The text of ``/proc/self/cgroup``.
        mounts: The text of ``/proc/self/mountinfo``.
    """
    paths = _paths(cgroups)
    for version, controller in ((1, "memory"), (2, "")):
        path = paths.get(controller)
        if path is None:
            continue
        for root, top in _mounted(mounts, version):
            inside = _below(root, path)
            if inside is not None:
                return Place(version, top + inside, top)
    return None


def _paths(cgroups: str) -> dict[str, str]:
    """Give the path of each controller; that of version 2 has no name."""
    paths: dict[str, str] = {}
    for line in cgroups.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and number.isdigit():
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _mounted(mounts: str, version: int) -> list[tuple[str, str]]:
    """List where hierarchies of a version are mounted: what of them, and where."""
    found = []
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(kind) < 3:
            continue
        is_first = kind[0] == "cgroup" and "memory" in kind[2].split(",")
        if is_first if version == 1 else kind[0] == "cgroup2":
            found.append((_plain(fields[3]), _plain(fields[4])))
    return found


def _below(root: str, path: str) -> str | None:
    """Give what comes after a root in a path, which begins with a slash or is empty."""
    if ".." in path.split("/"):
        return None
    root, path = root.rstrip("/"), path.rstrip("/")
    if path == root or path.startswith(f"{root}/"):
        return path[len(root) :]
    return None


def _plain(text: str) -> str:
    for escape, character in _ESCAPES:
        text = text.replace(escape, character)
    return text
