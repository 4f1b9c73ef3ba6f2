# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of keys in a configuration directory, as Guix has them.

``signing-key.pub`` and ``signing-key.sec`` are this machine's, ``acl`` says whose
signatures are accepted: where there is none, this machine's own. Files change by
being replaced as a whole. Entry points: `authorized`, `load_pair`, `authorize`,
`generate`.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from store.errors import StoreError
from store.signatures import acl
from store.signatures.canonical import Expression
from store.signatures.gcrypt import Gcrypt
from store.signatures.keys import KeyPair, public_key, read_expression, write_expression

ACL = "acl"
SECRET_KEY = "signing-key.sec"  # noqa: S105 - the name of a file
PUBLIC_KEY = "signing-key.pub"

PARAMETERS = b"(genkey (ecdsa (curve Ed25519) (flags rfc6979)))"
"""What ``guix archive --generate-key`` generates."""


def key_files(configuration: str) -> tuple[str, ...]:
    """Name the files that decide what is signed and accepted."""
    return tuple(f"{configuration}/{name}" for name in (ACL, SECRET_KEY, PUBLIC_KEY))


def authorized(gcrypt: Gcrypt, configuration: str) -> list[Expression]:
    """Read whose signatures are accepted.

    Raises:
        OSError: A file cannot be read.
        StoreError: It is not what it must be.
    """
    file = f"{configuration}/{ACL}"
    text = _read_if_there(file)
    if text is None:
        own = _read_if_there(f"{configuration}/{PUBLIC_KEY}")
        return [] if own is None else [public_key(gcrypt, own)]
    try:
        return acl.authorized_keys(read_expression(gcrypt, text))
    except StoreError as error:
        raise StoreError(f"{error.message} in `{file}'", reason="invalid-acl") from error


def load_pair(gcrypt: Gcrypt, secret_file: str) -> KeyPair:
    """Read a secret key, and the public one beside it.

    Raises:
        StoreError: A file cannot be read, or is not what it must be.
    """
    try:
        secret = _read(secret_file)
        public = _read(f"{secret_file.removesuffix('.sec')}.pub")
    except OSError as error:
        raise StoreError(
            f"failed to load key pair at '{secret_file}': {error.strerror}", reason="no-key"
        ) from error
    return KeyPair(public_key(gcrypt, public), read_expression(gcrypt, secret))


def authorize(gcrypt: Gcrypt, configuration: str, key_text: bytes) -> bool:
    """Accept signatures by a key from now on; tell whether it was not accepted before.

    Raises:
        OSError: A file cannot be read or written.
        StoreError: The key is none, or the list is not what it must be.
    """
    key = public_key(gcrypt, key_text)
    os.makedirs(configuration, exist_ok=True)
    with _locked(configuration) as directory:
        known = authorized(gcrypt, configuration)
        is_new = key not in known
        if is_new or _read_if_there(f"{configuration}/{ACL}") is None:
            text = write_expression(gcrypt, acl.make_acl([key, *known]))
            with _temporary(directory, text, 0o644, None) as name:
                os.rename(name, ACL, src_dir_fd=directory, dst_dir_fd=directory)
    return is_new


def generate(gcrypt: Gcrypt, configuration: str, owner: tuple[int, int] | None) -> None:
    """Make this machine's key pair.

    Args:
        gcrypt: The library.
        configuration: The directory; it is made where it is absent.
        owner: User and group that own the files; None for this process's.

    Raises:
        OSError: A file cannot be written.
        StoreError: There is a key already (reason ``exists``).
    """
    os.makedirs(configuration, exist_ok=True)
    with _locked(configuration) as directory:
        if {PUBLIC_KEY, SECRET_KEY} & set(os.listdir(directory)):
            raise StoreError(
                f"key pair exists under '{configuration}'; remove it first", reason="exists"
            )
        pair = read_expression(gcrypt, gcrypt.generate_key(PARAMETERS))
        match pair:
            case [b"key-data", [b"public-key", *_] as public, [b"private-key", *_] as secret]:
                parts = ((PUBLIC_KEY, public, 0o444), (SECRET_KEY, secret, 0o400))
            case _:
                raise StoreError("libgcrypt made no key pair", reason="cryptography")
        for file, part, mode in parts:
            text = write_expression(gcrypt, part)
            with _temporary(directory, text, mode, owner) as name:
                os.rename(name, file, src_dir_fd=directory, dst_dir_fd=directory)


@contextmanager
def _locked(directory: str) -> Iterator[int]:
    """Open a directory, and keep others who change it this way out."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _temporary(
    directory: int, text: bytes, mode: int, owner: tuple[int, int] | None
) -> Iterator[str]:
    """Make a file under a name of its own, all on disk; the caller renames it."""
    name = f".new-{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        with open(fd, "wb") as file:
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            file.write(text)
            file.flush()
            os.fsync(fd)
        yield name
        os.fsync(directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        raise


def _read_if_there(file: str) -> bytes | None:
    try:
        return _read(file)
    except FileNotFoundError:
        return None


def _read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()
