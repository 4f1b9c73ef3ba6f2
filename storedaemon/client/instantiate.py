# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns recipes into derivations in the daemon's store.

Sources and scripts are added first, then each derivation after those it needs,
so that at any time only paths that exist are named. Entry point: `instantiate`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from store.errors import StoreError
from store.paths import StorePath
from storedaemon.client.client import Client
from storedaemon.client.errors import RecipeError
from storedaemon.client.recipes import Recipe, RecipeFile
from storedaemon.client.templates import Placeholder, Template
from storedaemon.descriptions import DerivationDescription, FixedOutput


@dataclass(frozen=True, slots=True)
class Instance:
    """A recipe's derivation in the store, and its outputs by name."""

    drv: StorePath
    outputs: Mapping[str, StorePath]


async def instantiate(
    client: Client, file: RecipeFile, names: Iterable[str]
) -> Mapping[str, Instance]:
    """Add recipes, and all they need, to the store.

    Args:
        client: The daemon's.
        file: The recipe file.
        names: Which of its recipes.

    Returns:
        An instance for each recipe that was needed, those named among them.

    Raises:
        RecipeError: A source cannot be read, or the daemon refuses something;
            names the file and what in it.
    """
    work = _Work(client, file)
    for name in file.needed(names):
        try:
            await work.add(name)
        except (StoreError, OSError) as error:
            raise _located(file.file, f"derivations.{name}", error) from error
    return work.instances


def _located(file: str, table: str, error: StoreError | OSError) -> StoreError:
    if not isinstance(error, StoreError):
        return RecipeError(f"{file}: [{table}]: {error.filename}: {error.strerror}")
    if error.reason == "connection":
        return error
    return RecipeError(f"{file}: [{table}]: {error.message}", reason=error.reason)


@dataclass(slots=True)
class _Work:
    """What has been added so far."""

    client: Client
    file: RecipeFile
    sources: dict[str, StorePath] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)

    async def add(self, name: str) -> None:
        recipe = self.file.recipes[name]
        await self._add_sources(recipe)
        description = await self._describe(recipe)
        drv, outputs = await self.client.add_derivation(description)
        self.instances[name] = Instance(drv, outputs)

    async def _add_sources(self, recipe: Recipe) -> None:
        for placeholder in recipe.placeholders:
            source = self.file.sources.get(placeholder.name)
            if source and placeholder.name not in self.sources:
                path = await self.client.add_path(source.path, source.item)
                self.sources[placeholder.name] = path

    async def _describe(self, recipe: Recipe) -> DerivationDescription:
        sources = {p.name: self.sources[p.name] for p in recipe.placeholders if self._is_source(p)}
        builder, scripts = await self._builder(recipe)
        fixed = recipe.fixed
        return DerivationDescription(
            name=recipe.name,
            builder=builder,
            args=tuple(self._fill(arg) for arg in recipe.args),
            env={name: self._fill(value) for name, value in recipe.env.items()},
            inputs=self._inputs(recipe),
            sources=(*sources.values(), *scripts),
            outputs=recipe.outputs,
            system=recipe.system,
            fixed=FixedOutput(fixed.algorithm, fixed.hash, fixed.recursive) if fixed else None,
        )

    async def _builder(self, recipe: Recipe) -> tuple[str, tuple[StorePath, ...]]:
        """Give the builder, and the item that has to be made for it where it is a script."""
        if recipe.script is not None:
            content = recipe.script.encode()
            script = await self.client.add_executable(f"{recipe.name}-builder", content)
            return script, (script,)
        assert recipe.builder is not None, "a recipe has a builder or a script"
        return self._fill(recipe.builder), ()

    def _inputs(self, recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
        wanted: dict[str, set[str]] = {}
        for placeholder in recipe.placeholders:
            if not self._is_source(placeholder):
                drv = self.instances[placeholder.name].drv
                wanted.setdefault(drv, set()).add(placeholder.output or "out")
        return {drv: tuple(sorted(outputs)) for drv, outputs in wanted.items()}

    def _is_source(self, placeholder: Placeholder) -> bool:
        return placeholder.name in self.file.sources

    def _fill(self, template: Template) -> str:
        return template.fill(self._path_of)

    def _path_of(self, placeholder: Placeholder) -> str:
        if self._is_source(placeholder):
            return self.sources[placeholder.name]
        return self.instances[placeholder.name].outputs[placeholder.output or "out"]
