# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made in a root before anybody knows for whom, beside the groundwork.

Builds follow each other that differ in their inputs, but hardly in their files and in where
their inputs lie. So these are made as the last container had them. Files that the next one
has not, or not so, are removed again; a directory that it has not makes the root unsuitable.

Entry point: `work_ahead`.
"""

from typing import NamedTuple

from builder.spawner.mounts import Workshop
from builder.spawner.script import MAKE_FILE, Script, Step


class Ahead(NamedTuple):
    """What was made.

    Attributes:
        directories: Paths of those in which there will be something.
        files: Steps without their positions.
    """

    directories: frozenset[bytes] = frozenset()
    files: frozenset[Step] = frozenset()

    def suits(self, script: Script) -> bool:
        """Tell whether a script makes these directories, too."""
        return self.directories <= {step[2] for step in script.steps}

    def remaining(self, workshop: Workshop, script: Script) -> list[Step]:
        """Remove what a script does not make; give the steps that it still needs."""
        files = self.files
        left = [step for step in script.steps if step[1] != MAKE_FILE or step[1:] not in files]
        if len(left) + len(files) > len(script.steps):
            for _, parent, name, *_ in files.difference(step[1:] for step in script.steps):
                workshop.remove_file(parent, name)
        return left


def work_ahead(workshop: Workshop, script: Script) -> Ahead:
    """Make what the container after this one is likely to have, too.

    Raises:
        OSError: It failed.
    """
    # No step of a script with the same groundwork can put anything over these.
    firm = {b"", *(parent + b"/" + name for _, _, parent, name, *_ in script.groundwork.steps)}
    files = [step for step in script.steps if step[1] == MAKE_FILE and step[2] in firm]
    covered = tuple(b"%s/%s/" % step[2:4] for step in script.steps)
    places = {step[2] for step in script.steps}
    directories = {path for path in places if not (path + b"/").startswith(covered)}
    for path in directories:
        workshop.make_directories(path)
    for step in files:
        workshop.execute(step)
    return Ahead(frozenset(directories), frozenset(step[1:] for step in files))
