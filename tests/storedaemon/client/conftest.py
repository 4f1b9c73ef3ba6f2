# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon that can build, for the client library and the command line."""

import os
from collections.abc import Callable
from typing import Any

import pytest

HOST_DIRECTORIES = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives")


@pytest.fixture
def building_daemon(start_daemon: Callable[..., Any]) -> Any:
    """A daemon whose builds see this machine's shell and compiler."""
    options = [f"--chroot-directory={path}" for path in HOST_DIRECTORIES if os.path.isdir(path)]
    return start_daemon(*options, "--max-jobs=2")
