# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipe files: several derivations in TOML, in terms of each other and of local files.

`load_recipe` reads a file; what it gives is checked as far as that is possible
without a daemon, and its derivations are in an order in which each comes after
those it needs. `docs/recipes.md` describes the format.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storedaemon.client.errors import RecipeError
from storedaemon.client.recipe_tables import Table, load_toml
from storedaemon.client.templates import Placeholder, Template

MAX_RECIPE = 1 << 20
"""Bytes of the longest recipe file."""

_SUFFIX = ".toml"


@dataclass(frozen=True, slots=True)
class Source:
    """A local file or directory that becomes a store item; `item` is the item's name."""

    path: str
    item: str


@dataclass(frozen=True, slots=True)
class FixedOutput:
    """What is known of a derivation's only output beforehand; `hash` as the recipe spells it."""

    algorithm: str
    hash: str
    recursive: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """One derivation of a recipe file.

    Attributes:
        name: Its store name.
        builder: The program to run, or None where `script` is the program.
        script: The text of an executable file to make and run.
        args: Its arguments.
        env: Its environment.
        inputs: What it needs beside what its builder, arguments and environment name.
        outputs: The names of its outputs.
        system: Empty for the daemon's own.
        fixed: The hash of its output, where that is known.
    """

    name: str
    builder: Template | None
    script: str | None
    args: tuple[Template, ...]
    env: Mapping[str, Template]
    inputs: tuple[Placeholder, ...]
    outputs: tuple[str, ...]
    system: str
    fixed: FixedOutput | None

    @property
    def placeholders(self) -> Iterator[Placeholder]:
        """Everything that it refers to."""
        templates = [*self.args, *self.env.values()]
        if self.builder is not None:
            templates.append(self.builder)
        yield from self.inputs
        for template in templates:
            yield from template.placeholders


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe file.

    Attributes:
        file: Its name, for messages.
        sources: By the names that the recipes use.
        recipes: Likewise; each comes after the recipes it refers to.
        default: What is built where nothing is named.
    """

    file: str
    sources: Mapping[str, Source]
    recipes: Mapping[str, Recipe]
    default: tuple[str, ...]

    def select(self, names: Iterable[str]) -> tuple[str, ...]:
        """Give the names of recipes to build: those named, or the default.

        Raises:
            RecipeError: A name is no recipe of the file.
        """
        chosen = tuple(dict.fromkeys(names)) or self.default
        for name in chosen:
            if name not in self.recipes:
                known = ", ".join(self.recipes)
                raise RecipeError(f"{self.file}: there is no derivation '{name}', only {known}")
        return chosen

    def needed(self, names: Iterable[str]) -> tuple[str, ...]:
        """Give those recipes and all they refer to, in the order of `recipes`."""
        wanted = set(names)
        for name in reversed(list(self.recipes)):
            if name in wanted:
                wanted.update(p.name for p in self.recipes[name].placeholders)
        return tuple(name for name in self.recipes if name in wanted)


def is_recipe_file(path: str) -> bool:
    """Say whether a file name is that of a recipe."""
    return path.endswith(_SUFFIX)


def load_recipe(path: str) -> RecipeFile:
    """Read a recipe file.

    Raises:
        RecipeError: It cannot be read, or says something that it cannot; names
            the file, the table and the key.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_RECIPE + 1)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_RECIPE:
        raise RecipeError(f"{path}: longer than {MAX_RECIPE} bytes")
    return parse_recipe(data, path)


def parse_recipe(data: bytes, file: str) -> RecipeFile:
    """Read the content of a recipe file; sources are relative to the file's directory.

    Raises:
        RecipeError: See `load_recipe`.
    """
    top = load_toml(data, file)
    directory = Path(file).absolute().parent
    sources = {name: _source(name, top, directory) for name in top.table("sources")}
    recipes = {name: _recipe(name, table) for name, table in top.tables("derivations")}
    default = top.words("default")
    top.done()
    if not recipes:
        raise RecipeError(f"{file}: it has no [derivations.NAME] table")
    for name in sources.keys() & recipes.keys():
        raise RecipeError(f"{file}: '{name}' is both a source and a derivation")
    parsed = RecipeFile(file, sources, recipes, default or tuple(recipes))
    parsed.select(default)
    _check_placeholders(parsed)
    ordered = {name: recipes[name] for name in _in_order(parsed)}
    return RecipeFile(file, sources, ordered, parsed.default)


def _source(name: str, top: Table, directory: Path) -> Source:
    """Read ``name = "path"``, or a table with `path` and `name`."""
    sources = top.table("sources")
    sources.check_name(name)
    if sources.is_text(name):
        path, item = sources.text(name), ""
    else:
        table = sources.table(name)
        path, item = table.text("path"), table.text("name", "")
        table.done()
    absolute = os.path.normpath(directory / path)
    return Source(absolute, item or Path(absolute).name)


def _recipe(name: str, table: Table) -> Recipe:
    table.check_name(name)
    builder = table.optional_template("builder")
    script = table.text("script", "") or None
    recipe = Recipe(
        name=table.text("name", name),
        builder=builder,
        script=script,
        args=table.templates("args"),
        env=table.template_map("env"),
        inputs=table.placeholders("inputs"),
        outputs=table.words("outputs") or ("out",),
        system=table.text("system", ""),
        fixed=_fixed_output(table),
    )
    table.done()
    if (builder is None) == (script is None):
        raise table.error("needs exactly one of 'builder' and 'script'")
    if script is not None and not script.startswith("#!"):
        raise table.wrong("script", "text whose first line is '#!' and an interpreter")
    if recipe.fixed and recipe.outputs != ("out",):
        raise table.wrong("outputs", 'absent or ["out"] where there is a hash')
    if len(set(recipe.outputs)) != len(recipe.outputs):
        raise table.wrong("outputs", "a list in which no output occurs twice")
    return recipe


def _fixed_output(table: Table) -> FixedOutput | None:
    text = table.text("hash", "")
    mode = table.text("hash-mode", "flat")
    if mode not in {"flat", "recursive"}:
        raise table.wrong("hash-mode", "'flat' or 'recursive'")
    if not text:
        return None
    algorithm, colon, digits = text.partition(":")
    if not colon or not digits:
        raise table.wrong("hash", "ALGORITHM:DIGITS, such as sha256:…")
    return FixedOutput(algorithm, digits, mode == "recursive")


def _check_placeholders(parsed: RecipeFile) -> None:
    for name, recipe in parsed.recipes.items():
        for placeholder in recipe.placeholders:
            problem = _problem(parsed, placeholder)
            if problem:
                raise RecipeError(
                    f"{parsed.file}: [derivations.{name}]: '{placeholder}': {problem}"
                )


def _problem(parsed: RecipeFile, placeholder: Placeholder) -> str:
    if placeholder.name in parsed.sources:
        return "a source has no outputs" if placeholder.output else ""
    target = parsed.recipes.get(placeholder.name)
    if target is None:
        known = ", ".join([*parsed.sources, *parsed.recipes])
        return f"there is no such source or derivation; there are {known}"
    output = placeholder.output or "out"
    return "" if output in target.outputs else f"its outputs are {', '.join(target.outputs)}"


def _in_order(parsed: RecipeFile) -> list[str]:
    """Sort recipes so that each comes after those it refers to; report a cycle by its members."""
    needs = {
        name: {p.name for p in recipe.placeholders if p.name in parsed.recipes}
        for name, recipe in parsed.recipes.items()
    }
    order: list[str] = []
    while len(order) < len(needs):
        ready = [n for n in needs if n not in order and needs[n] <= set(order)]
        if not ready:
            cycle = " needs ".join(_cycle(needs, set(order)))
            raise RecipeError(f"{parsed.file}: derivations need each other: {cycle}")
        order += ready
    return order


def _cycle(needs: Mapping[str, set[str]], done: set[str]) -> list[str]:
    """Follow unmet needs until one comes again."""
    walk = [next(name for name in needs if name not in done)]
    while True:
        following = min(needs[walk[-1]] - done)
        if following in walk:
            return [*walk[walk.index(following) :], following]
        walk.append(following)
