# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/protocol.md says what the code does."""

import re
from pathlib import Path

import cbor2

from builder.events import Damage, FailureKind, Level
from store.errors import StoreError
from storedaemon.sessions.native_methods import METHODS
from storedaemon.wire.native import messages as m
from storedaemon.wire.native.connection import FEATURES, limits
from storedaemon.wire.native.events import NAMES
from storedaemon.wire.native.frames import PREFIX

DOCUMENT = (Path(__file__).parents[3] / "docs/protocol.md").read_text()


def section(title: str) -> str:
    """Give the text under a heading, up to the next heading of its level."""
    match = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match, title
    return match[1]


def first_column(text: str) -> list[str]:
    """Give the words in backquotes that begin the rows of tables."""
    return re.findall(r"^\| \*?`([^`]+)`", text, re.MULTILINE)


def test_every_method_is_described():
    """A method that is not in the document does not exist for its readers."""
    text = section("Methods")
    described = {name for name in METHODS if f"| `{name}` |" in text or f"\n`{name}` " in text}
    assert described == set(METHODS)


def test_every_method_in_the_tables_exists():
    """A method in the document can be called."""
    tables = re.findall(r"^\| method \|.*?(?=\n\n)", section("Methods"), re.MULTILINE | re.DOTALL)
    assert {name for table in tables for name in first_column(table)} <= set(METHODS)


def test_messages_events_and_words_are_those_of_the_code():
    """Names are listed completely, and no others."""
    assert set(first_column(section("Messages"))) == {*m.FROM_CLIENT, *m.FROM_DAEMON}
    assert set(first_column(section("Build events"))) == set(NAMES.values())
    for word in [*Damage, *FailureKind, *Level]:
        assert f"`{word}`" in section("Build events")
    for feature in FEATURES:
        assert f"`{feature}`" in section("Opening a connection")


def test_limits_are_those_of_the_code():
    """The figures are kept up to date."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", section("Limits"), re.MULTILINE)
    assert {name: int(figure.replace(",", "")) for name, figure in rows} == limits()


def test_every_fault_that_the_wire_layer_raises_is_listed():
    """Reasons in the source are reasons in the document."""
    listed = set(first_column(section("Errors")))
    sources = Path(m.__file__).parent.glob("*.py")
    raised = {
        reason
        for source in sources
        for reason in re.findall(r'FaultError\(\s*"([a-z-]+)"', source.read_text())
    }
    assert raised
    assert raised <= listed


def test_every_reason_of_the_store_is_listed():
    """Whatever error the store raises, the document says what its word means."""
    listed = set(first_column(section("Errors")))
    classes = [StoreError, *StoreError.__subclasses__()]
    reasons = {cls.default_reason for cls in classes if cls.__module__ == "store.errors"}
    assert reasons <= listed
    assert len(reasons) > 5


def test_the_bytes_shown_are_the_bytes_sent():
    """The conversation of the document can be typed in."""
    shown = re.findall(
        r"^([0-9a-f]{2}(?: [0-9a-f]{2}){3})\n([0-9a-f ]+)\n(\{.*\})$",
        section("A conversation, byte by byte"),
        re.MULTILINE,
    )
    assert len(shown) == 3
    for prefix, body, notation in shown:
        data = bytes.fromhex(body)
        assert PREFIX.unpack(bytes.fromhex(prefix)) == (len(data),)
        assert cbor2.loads(data) == eval(notation, {})
