# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipe files: what they say, and errors that name the place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storedaemon.client.errors import RecipeError
from storedaemon.client.recipes import load_recipe, parse_recipe
from storedaemon.client.templates import Placeholder

EXAMPLE = Path(__file__).parents[3] / "contrib/examples/tally/recipe.toml"

PLAIN = 'script = "#!/bin/sh"\n'


def parse(text: str):
    """Parse the text of a recipe file that lies in ``/d``."""
    return parse_recipe(text.encode(), "/d/r.toml")


def test_the_example_is_in_order_of_its_needs():
    """The bundle comes last and needs everything."""
    recipe = load_recipe(str(EXAMPLE))
    assert list(recipe.recipes) == ["libtally", "program", "check", "tally"]
    assert recipe.default == ("tally",)
    assert recipe.needed(["program"]) == ("libtally", "program")


def test_a_derivation_says_all_it_can():
    """Each key arrives where it belongs."""
    recipe = parse(
        """
        [sources]
        tool = "bin/tool"
        [derivations.a]
        name = "a-1.0"
        builder = "${tool}"
        args = ["--from", "${b.doc}", "$${x}"]
        inputs = ["b.out"]
        system = "riscv64-linux"
        outputs = ["out", "lib"]
        [derivations.a.env]
        level = 3
        [derivations.b]
        script = "#!/bin/sh"
        outputs = ["out", "doc"]
        """
    ).recipes["a"]
    assert recipe.name == "a-1.0"
    assert recipe.outputs == ("out", "lib")
    assert recipe.system == "riscv64-linux"
    assert recipe.env["level"].fill(str) == "3"
    assert recipe.args[2].fill(str) == "${x}"
    assert set(recipe.placeholders) == {
        Placeholder("tool"),
        Placeholder("b", "doc"),
        Placeholder("b", "out"),
    }


def test_sources_are_relative_to_the_file():
    """A source's path begins at the recipe's directory; its name can be chosen."""
    recipe = parse(
        '[sources]\na = "../x/y.c"\nb = {path = "/abs/d", name = "data"}\n[derivations.c]\n' + PLAIN
    )
    assert (recipe.sources["a"].path, recipe.sources["a"].item) == ("/x/y.c", "y.c")
    assert (recipe.sources["b"].path, recipe.sources["b"].item) == ("/abs/d", "data")


def test_a_fixed_output_has_algorithm_digits_and_mode():
    """The hash is split, and checked by the daemon."""
    text = f'[derivations.a]\n{PLAIN}hash = "sha256:00"\nhash-mode = "recursive"\n'
    fixed = parse(text).recipes["a"].fixed
    assert (fixed.algorithm, fixed.hash, fixed.recursive) == ("sha256", "00", True)


def test_without_a_default_everything_is_built():
    """All recipes are wanted when none is named."""
    recipe = parse(f"[derivations.a]\n{PLAIN}[derivations.b]\n{PLAIN}")
    assert recipe.select([]) == ("a", "b")
    assert recipe.select(["b", "b"]) == ("b",)
    with pytest.raises(RecipeError, match="no derivation 'z', only a, b"):
        recipe.select(["z"])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = [", "not TOML"),
        ("", r"no \[derivations.NAME\] table"),
        ("colour = 1\n[derivations.a]\n" + PLAIN, "unknown key 'colour'; the keys are default"),
        ("derivations = 3", "'derivations' must be a table"),
        ("[derivations]\na = 3", r"\[derivations\]: 'a' must be a table"),
        ("[derivations.a]\nscrpt = ''", r"\[derivations.a\]: unknown key 'scrpt'; the keys are"),
        ("[derivations.a]", r"\[derivations.a\]: needs exactly one of 'builder' and 'script'"),
        (f'[derivations.a]\n{PLAIN}builder = "x"', "needs exactly one"),
        ("[derivations.a]\nscript = 3", "'script' must be text"),
        ('[derivations.a]\nscript = "echo"', "'script' must be text whose first line is '#!'"),
        (f"[derivations.a]\n{PLAIN}scrpt = 1", r"\[derivations.a\]: unknown key 'scrpt'"),
        (f'[derivations.a]\n{PLAIN}args = "x"', "'args' must be a list of text"),
        (f"[derivations.a]\n{PLAIN}args = [1]", "'args' must be text"),
        (f'[derivations.a]\n{PLAIN}args = ["${{"]', "'args': .* no closing brace"),
        (f'[derivations.a]\n{PLAIN}args = ["${{b}}"]', "'b': there is no such source or deriv"),
        (f'[derivations.a]\n{PLAIN}args = ["\\u0000"]', "'args' must be text"),
        (f"[derivations.a]\n{PLAIN}env = {{x = true}}", r"\[derivations.a.env\]: 'x' must be text"),
        (f'[derivations.a]\n{PLAIN}inputs = ["a b"]', "'inputs': 'a b' is neither"),
        (f'[derivations.a]\n{PLAIN}outputs = ["x", "x"]', "'outputs' must be a list in which no"),
        (f'[derivations.a]\n{PLAIN}hash = "00"', "'hash' must be ALGORITHM:DIGITS"),
        (f'[derivations.a]\n{PLAIN}hash-mode = "x"', "'hash-mode' must be"),
        (f'[derivations.a]\n{PLAIN}hash = "md5:0"\noutputs = ["x"]', "'outputs' must be absent or"),
        (f'[derivations."a b"]\n{PLAIN}', "'a b' is no name"),
        (f'default = "z"\n[derivations.a]\n{PLAIN}', "no derivation 'z'"),
        (f"default = [1]\n[derivations.a]\n{PLAIN}", "'default' must be a name or a list"),
        (f'[sources]\na = "x"\n[derivations.a]\n{PLAIN}', "'a' is both"),
        (f"[sources]\na = 3\n[derivations.b]\n{PLAIN}", r"\[sources\]: 'a' must be a table"),
        (f'[sources]\na = {{p = "x"}}\n[derivations.b]\n{PLAIN}', "sources.a.*'path' is missing"),
        (
            f'[sources]\ns = "x"\n[derivations.a]\n{PLAIN}inputs = ["s.out"]',
            "'s.out': a source has no outputs",
        ),
        (
            f'[derivations.a]\n{PLAIN}inputs = ["b.doc"]\n[derivations.b]\n{PLAIN}',
            "outputs are out",
        ),
    ],
)
def test_errors_name_the_place(text: str, error: str):
    """Each mistake is an error that begins with the file and says what is allowed."""
    with pytest.raises(RecipeError, match=error) as caught:
        parse(text)
    assert caught.value.message.startswith("/d/r.toml: ")


def test_circles_are_shown():
    """Derivations that need each other are named in the order of their needs."""
    text = "".join(
        f'[derivations.{name}]\n{PLAIN}inputs = ["{needed}"]\n'
        for name, needed in [("start", "a"), ("a", "b"), ("b", "c"), ("c", "a")]
    )
    with pytest.raises(RecipeError, match=r"a needs b needs c needs a$"):
        parse(text)


def test_a_derivation_that_needs_itself_is_a_circle():
    """The shortest circle is one."""
    with pytest.raises(RecipeError, match=r"a needs a$"):
        parse(f'[derivations.a]\n{PLAIN}args = ["${{a}}"]')


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    """A missing file, a directory, a huge file and bytes that are no text are errors."""
    with pytest.raises(RecipeError, match=r"missing.toml: No such file"):
        load_recipe(str(tmp_path / "missing.toml"))
    with pytest.raises(RecipeError, match="Is a directory"):
        load_recipe(str(tmp_path))
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (2 << 20))
    with pytest.raises(RecipeError, match="longer than"):
        load_recipe(str(huge))
    with pytest.raises(RecipeError, match="not TOML"):
        parse_recipe(b"\xff", "r.toml")


@given(st.text(alphabet='[]{}=".\n abderivtons$', max_size=60))
def test_any_text_is_a_recipe_or_refused(text: str):
    """Nothing but a recipe or a RecipeError comes of any text."""
    try:
        recipe = parse(text)
    except RecipeError:
        return
    assert recipe.recipes
