# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that change whose signatures count: `import-key` and `generate-key`.

They work on files that only their owner can change, as `guix archive` does, and
ask no daemon, which looks at the files whenever it needs them.
"""

import os
import sys
from argparse import Namespace

from store.errors import StoreError
from store.signatures import keyring
from store.signatures.gcrypt import Gcrypt
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json
from storedaemon.config import COMMAND_LINE, Config, Source, environment_source, make_config

_LONGEST_KEY = 1 << 20


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    named = {"configuration-directory": options.configuration_directory}
    sources = [Source(COMMAND_LINE, named, os.getcwd()), environment_source(os.environ)]
    config = make_config(sources)
    if options.command == "import-key":
        return _import_key(options, config)
    return _generate_key(options, config)


def _import_key(options: Namespace, config: Config) -> int:
    is_new = keyring.authorize(Gcrypt.load(), config.configuration, _read(options.file))
    if options.json:
        print_json({"added": is_new})
    elif not is_new:
        sys.stderr.write("the key was accepted already\n")
    return Exit.OK


def _read(file: str) -> bytes:
    fd = os.dup(sys.stdin.fileno()) if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as opened:
        text = opened.read(_LONGEST_KEY + 1)
    if len(text) > _LONGEST_KEY:
        raise StoreError(f"'{file}' is too long for a key", reason="too-large")
    return text


def _generate_key(options: Namespace, config: Config) -> int:
    keyring.generate(Gcrypt.load(), config.configuration, _owner(config.store))
    public = f"{config.configuration}/{keyring.PUBLIC_KEY}"
    if options.json:
        print_json({"public-key": public})
    else:
        sys.stdout.write(f"{public}\n")
    return Exit.OK


def _owner(store: str) -> tuple[int, int] | None:
    """Choose whom the keys belong to: whom the store belongs to, since the daemon reads them."""
    if os.geteuid() != 0:
        return None
    try:
        status = os.stat(store)
    except FileNotFoundError:
        return None
    # A store of root has the group of the build users, who have no business with keys.
    return (status.st_uid, status.st_gid if status.st_uid else 0)
