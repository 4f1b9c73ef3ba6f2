# SPDX-License-Identifier: GPL-3.0-or-later
"""What we use of libgcrypt, the library that Guix signs with.

Expressions go in and out as bytes, in any of its spellings; a handle never
leaves a call. The library is loaded by `Gcrypt.load`, and only there.
"""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from enum import IntEnum

from store.errors import StoreError

LIBRARY = "libgcrypt.so.20"

# <gcrypt.h>
_DISABLE_SECURE_MEMORY = 37
_INITIALIZATION_FINISHED = 38
# <gpg-error.h>: the code of an error is its lower 16 bits.
_CODE_MASK = 0xFFFF
_BAD_SIGNATURE = 8

_SIGNATURES = {
    "gcry_check_version": (c_char_p, (c_char_p,)),
    "gcry_strerror": (c_char_p, (c_uint,)),
    "gcry_sexp_sscan": (c_uint, (POINTER(c_void_p), POINTER(c_size_t), c_char_p, c_size_t)),
    "gcry_sexp_sprint": (c_size_t, (c_void_p, c_int, c_void_p, c_size_t)),
    "gcry_sexp_release": (None, (c_void_p,)),
    "gcry_pk_sign": (c_uint, (POINTER(c_void_p), c_void_p, c_void_p)),
    "gcry_pk_verify": (c_uint, (c_void_p, c_void_p, c_void_p)),
    "gcry_pk_genkey": (c_uint, (POINTER(c_void_p), c_void_p)),
}


class Spelling(IntEnum):
    """How an expression is written; the numbers are libgcrypt's."""

    CANONICAL = 1
    ADVANCED = 3


class CryptoError(StoreError):
    """libgcrypt is absent, or refuses what it was given."""

    default_reason = "cryptography"


class Gcrypt:
    """The library; get it with `load`.

    Args:
        library: libgcrypt, initialised.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    @classmethod
    def load(cls, name: str = LIBRARY) -> "Gcrypt":
        """Load and initialise the system's libgcrypt.

        Raises:
            CryptoError: There is none.
        """
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            raise CryptoError(
                f"signatures need libgcrypt (the package libgcrypt20 of Debian): {error}"
            ) from error
        for symbol, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, symbol)
            function.restype, function.argtypes = result, arguments
        if library.gcry_check_version(None) is None:
            raise CryptoError(f"{name} cannot be initialised")
        # Its locked memory is too small for long RSA keys where limits are low.
        library.gcry_control(c_int(_DISABLE_SECURE_MEMORY), c_int(0))
        library.gcry_control(c_int(_INITIALIZATION_FINISHED), c_int(0))
        return cls(library)

    def respell(self, expression: bytes, spelling: Spelling) -> bytes:
        """Write an expression in another spelling.

        Raises:
            CryptoError: It is no expression.
        """
        with self._parsed(expression) as (handle,):
            return self._print(handle, spelling)

    def sign(self, data: bytes, secret_key: bytes) -> bytes:
        """Sign a ``data`` expression; give the ``sig-val``, canonical.

        Raises:
            CryptoError: The data or the key do not suit.
        """
        with self._parsed(data, secret_key) as (data_handle, key_handle):
            result = c_void_p()
            self._check(
                "cannot sign",
                self._library.gcry_pk_sign(byref(result), data_handle, key_handle),
            )
            return self._take(result)

    def verify(self, value: bytes, data: bytes, public_key: bytes) -> bool:
        """Tell whether a ``sig-val`` is a signature of the data by a key.

        Raises:
            CryptoError: One of them is not what it must be.
        """
        with self._parsed(value, data, public_key) as handles:
            error: int = self._library.gcry_pk_verify(*handles)
        if error & _CODE_MASK == _BAD_SIGNATURE:
            return False
        self._check("cannot verify a signature", error)
        return True

    def generate_key(self, parameters: bytes) -> bytes:
        """Generate a key pair; give the ``key-data``, canonical.

        Raises:
            CryptoError: The parameters make no sense, or there is no entropy.
        """
        with self._parsed(parameters) as (handle,):
            result = c_void_p()
            self._check(
                "cannot generate a key", self._library.gcry_pk_genkey(byref(result), handle)
            )
            return self._take(result)

    @contextmanager
    def _parsed(self, *expressions: bytes) -> Iterator[list[c_void_p]]:
        with ExitStack() as stack:
            handles = []
            for expression in expressions:
                handle = self._scan(expression)
                stack.callback(self._library.gcry_sexp_release, handle)
                handles.append(handle)
            yield handles

    def _scan(self, expression: bytes) -> c_void_p:
        handle, offset = c_void_p(), c_size_t()
        error = self._library.gcry_sexp_sscan(
            byref(handle), byref(offset), expression, len(expression)
        )
        self._check(f"bad s-expression (byte {offset.value})", error)
        return handle

    def _take(self, handle: c_void_p) -> bytes:
        """Write the expression of a handle that is ours, and release it."""
        try:
            return self._print(handle, Spelling.CANONICAL)
        finally:
            self._library.gcry_sexp_release(handle)

    def _print(self, handle: c_void_p, spelling: Spelling) -> bytes:
        size = self._library.gcry_sexp_sprint(handle, spelling, None, 0)
        buffer = ctypes.create_string_buffer(size)
        written = self._library.gcry_sexp_sprint(handle, spelling, buffer, size)
        # The size has room for a NUL, which is not part of what is written.
        return buffer.raw[:written]

    def _check(self, what: str, error: int) -> None:
        if error:
            text = self._library.gcry_strerror(error).decode("utf-8", "replace")
            raise CryptoError(f"{what}: {text}")
