# SPDX-License-Identifier: GPL-3.0-or-later
from collections.abc import Iterable
from types import EllipsisType
from typing import TypeAlias

_Argument: TypeAlias = int | bytes | bytearray | tuple[bytes, ...] | EllipsisType | None
_Calls: TypeAlias = Iterable[tuple[str, tuple[_Argument, ...], bool]]

def call(name: str, number: int, /, *arguments: int | bytes | bytearray | None) -> int: ...
def launch(calls: _Calls, /) -> tuple[int, int, int, int]: ...
def perform(calls: _Calls, /) -> tuple[int, int]: ...
