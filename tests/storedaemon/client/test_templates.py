# SPDX-License-Identifier: GPL-3.0-or-later
"""Text with placeholders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storedaemon.client.templates import Placeholder, Template, parse_template


def test_pieces_stand_in_order():
    """Literal text and placeholders alternate as they are written."""
    template = parse_template("a ${x} b ${y-1.doc}")
    assert template.pieces == ("a ", Placeholder("x"), " b ", Placeholder("y-1", "doc"))


def test_filling_puts_paths_in_place():
    """Each placeholder is asked for, escaped ones are not."""
    template = parse_template("$x $${HOME} ${a}/bin ${b.lib}")
    assert template.fill(lambda p: f"<{p}>") == "$x ${HOME} <a>/bin <b.lib>"


@pytest.mark.parametrize("text", ["${", "${x", "${}", "${a b}", "${a.b.c}", "${a:-b}", "x ${.out}"])
def test_malformed_placeholders_are_refused(text: str):
    """What looks like a placeholder and is none is a mistake."""
    with pytest.raises(ValueError, match=r"neither NAME nor|no closing brace"):
        parse_template(text)


@given(st.text())
def test_text_without_placeholders_stays_as_it_is(text: str):
    """Escaping every opening gives any text back."""
    template = parse_template(text.replace("${", "$${"))
    assert template.placeholders == ()
    assert template.fill(str) == text


@given(st.text(alphabet="$\\{}ab.", max_size=12))
def test_any_text_is_a_template_or_refused(text: str):
    """Nothing but a template or a ValueError comes of any text."""
    try:
        template = parse_template(text)
    except ValueError:
        return
    assert isinstance(template, Template)
