# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines that the daemon and a build hook exchange."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.agents import MAX_LINE, AgentError
from builder.offload.protocol import (
    Answer,
    AnswerReader,
    Requirements,
    item_lines,
    request_line,
    requirements_of,
)
from store.derivations import Derivation, Output
from store.paths import StorePath

DRV = StorePath("/gnu/store/00000000000000000000000000000000-demo.drv")
ITEM = StorePath("/gnu/store/11111111111111111111111111111111-item")

# How `guix offload' reads a request.
REQUEST = re.compile(r"([01]) ([a-z0-9_-]+) (/[!-~]+.drv) ([!-~]*)\n")


def derivation(system: str, **env: str) -> Derivation:
    """A derivation of a system with attributes."""
    return Derivation({"out": Output(ITEM)}, {}, (), system, "/bin/sh", (), env)


@given(st.text(), st.text())
def test_a_request_is_one_line_that_the_hook_can_read(system: str, features: str):
    """Or else it is not put: a derivation cannot say anything else to the hook."""
    needs = requirements_of(derivation(system, requiredSystemFeatures=features))
    if needs is not None:
        assert REQUEST.fullmatch(request_line(DRV, needs, here=True).decode())


def test_features_are_joined_by_commas():
    """There may be none."""
    needs = requirements_of(derivation("x86_64-linux", requiredSystemFeatures=" kvm  big "))
    assert needs == Requirements("x86_64-linux", ("kvm", "big"))
    assert request_line(DRV, needs, here=False) == f"0 x86_64-linux {DRV} kvm,big\n".encode()
    bare = Requirements("x86_64-linux")
    assert request_line(DRV, bare, here=True) == f"1 x86_64-linux {DRV} \n".encode()


def test_items_are_named_on_a_line_each_for_inputs_and_outputs():
    """An empty list is an empty line."""
    assert item_lines([ITEM, DRV], []) == f"{DRV} {ITEM} \n\n".encode()


@given(st.lists(st.integers(1, 20)))
def test_an_answer_is_found_however_it_arrives(sizes: list[int]):
    """What comes before it is given line by line, what comes behind is kept."""
    reader, said = AnswerReader("hook"), []
    data = b"looking\n#not yet\n\n# accept\n@ build-remote"
    for size in [*sizes, len(data)]:
        reader.feed(data[:size])
        data = data[size:]
        while (each := reader.next()) is not None:
            said.append(each)
    assert said == ["looking", "#not yet", "", Answer.ACCEPT]
    assert reader.rest() == b"@ build-remote"
    assert reader.rest() == b""


@pytest.mark.parametrize("word", ["", "Accept", "accept ", "decline-permanently", "\ud800"])
def test_other_answers_are_refused(word: str):
    """As by the C++ daemon; the message names them."""
    reader = AnswerReader("hook `x'")
    reader.feed(b"# " + word.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.raises(AgentError, match=r"bad hook reply `.*' from hook `x'"):
        reader.next()


def test_a_line_without_end_is_refused():
    """Memory is bounded."""
    reader = AnswerReader("hook")
    reader.feed(bytes(MAX_LINE + 1))
    with pytest.raises(AgentError, match="line of over"):
        reader.next()
