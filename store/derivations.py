# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations: what one says, how it is read and written, which output paths it must have.

A `Derivation` is plain data. Its file form is read strictly by `parse_derivation`
and written canonically by `unparse_derivation`, byte for byte as the reference
daemon and its client do, since store paths hash those bytes. The output paths
follow from the rest: `fill_output_paths` computes them, `check_output_paths`
holds a derivation from outside to them.

The strings of a derivation are bytes on disk; they are kept as text, with
surrogates for what is not UTF-8, and ordered as their bytes are.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from typing import TypeVar, cast

from store import aterm
from store.errors import DerivationError, StoreError
from store.hashes import Digest, HashAlgorithm
from store.paths import DERIVATION_SUFFIX, StoreDirectory, StorePath, is_derivation, name_of

_OUTPUT = r'\(",",","\)'
_INPUT = r'\(",\[(?:"(?:,")*+)?\]\)'
_VARIABLE = r'\(","\)'

_SHAPE = aterm.term_shape(
    "Derive",
    aterm.list_shape('an output ("NAME","PATH","ALGORITHM","HASH")', _OUTPUT),
    aterm.list_shape('an input derivation ("PATH",["OUTPUT",…])', _INPUT),
    aterm.list_shape("a list of input sources", '"'),
    aterm.string_shape("a string for the system"),
    aterm.string_shape("a string for the builder"),
    aterm.list_shape("a list of arguments", '"'),
    aterm.list_shape('a variable ("NAME","VALUE")', _VARIABLE),
)

_OUTPUT_NAME = re.compile(r"[A-Za-z0-9+\-._?=]+")

#: Gives the sha256 that `hash_derivation_modulo` has for an input derivation.
HashLookup = Callable[[StorePath], bytes]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a derivation.

    Attributes:
        path: Where it will be; empty while the path is not computed yet.
        hash_algorithm: Empty, or the algorithm of a fixed output's hash, after
            ``r:`` if the hash is that of the archive form.
        hash: The base-16 digits of a fixed output; otherwise empty.
    """

    path: str
    hash_algorithm: str = ""
    hash: str = ""

    def fixed_content(self) -> tuple[bool, Digest]:
        """Return whether the hash is of the archive form, and the hash.

        Raises:
            StoreError: The algorithm is unknown, or the digits are no hash of it.
        """
        word = self.hash_algorithm
        return word.startswith("r:"), Digest.parse_base16(_algorithm(word), self.hash)


@dataclass(frozen=True, slots=True)
class Derivation:
    """What to build, from what, and how.

    The order of outputs, inputs and variables carries no meaning; as parsed they
    are in the order of their bytes.

    Attributes:
        outputs: By name; a single output is called "out". Guix writes derivations
            that have none for expressions that do not mention their output.
        input_derivations: The outputs wanted of each; no name at all means every output.
        input_sources: Items that are not built.
        system: Such as ``x86_64-linux``.
        builder: The program, or ``builtin:NAME``.
        args: Its arguments.
        env: Its environment variables.
        output_paths: The paths of all outputs, in the order of their names.
        is_fixed_output: Whether the only output's content is known by its hash beforehand.
        is_builtin: Whether the daemon itself has the builder.
    """

    outputs: Mapping[str, Output]
    input_derivations: Mapping[StorePath, tuple[str, ...]]
    input_sources: tuple[StorePath, ...]
    system: str
    builder: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    # These follow from the rest, and are asked for a dozen times a build.
    output_paths: tuple[StorePath, ...] = field(init=False, repr=False, compare=False)
    is_fixed_output: bool = field(init=False, repr=False, compare=False)
    is_builtin: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        outputs = self.outputs
        paths = tuple([output.path for output in outputs.values()])
        fixed = len(outputs) == 1 and "out" in outputs and outputs["out"].hash != ""
        object.__setattr__(self, "output_paths", cast("tuple[StorePath, ...]", paths))
        object.__setattr__(self, "is_fixed_output", fixed)
        object.__setattr__(self, "is_builtin", self.builder.startswith("builtin:"))

    @property
    def outputs_by_name(self) -> Mapping[str, StorePath]:
        """The path of each output."""
        return dict(zip(self.outputs, self.output_paths, strict=True))

    @property
    def references(self) -> frozenset[StorePath]:
        """The items its file refers to: its inputs, not its outputs, which may not exist."""
        return frozenset(self.input_derivations).union(self.input_sources)


def derivation_name(drv_path: StorePath) -> str:
    """Return the name that outputs are called after: without hash and ``.drv``.

    Raises:
        DerivationError: The path is not that of a derivation.
    """
    if not is_derivation(drv_path):
        raise DerivationError(f"path `{drv_path}' is not that of a derivation")
    return name_of(drv_path).removesuffix(DERIVATION_SUFFIX)


def parse_derivation(data: bytes, store: StoreDirectory, name: str) -> Derivation:
    """Read the file form of a derivation.

    Args:
        data: The whole file.
        store: The directory all its paths must lie in.
        name: The file's path or name, for messages.

    Returns:
        The derivation, its parts in canonical order.

    Raises:
        DerivationError: The text is malformed, names something twice, has no
            output, or has a path, output name or hash that cannot be one.
    """
    try:
        text = data.decode("utf-8", "surrogateescape")
        return _assemble(aterm.read_term(text, _SHAPE), store)
    except StoreError as error:
        raise DerivationError(f"error parsing derivation `{name}': {error}") from error


def unparse_derivation(drv: Derivation) -> bytes:
    """Write the file form of a derivation, canonically."""
    inputs = {str(path): outputs for path, outputs in drv.input_derivations.items()}
    return _unparse(drv, inputs)


def hash_derivation_modulo(drv: Derivation, lookup: HashLookup) -> bytes:
    """Hash a derivation so that only what fixed outputs contain counts, not how they are made.

    Args:
        drv: The derivation.
        lookup: Gives this same hash for an input derivation.

    Returns:
        A sha256: of the fixed content and its path, or of the file form with each
        input's path replaced by that input's hash. As in the reference daemon,
        of two inputs with one hash the later path's outputs count.
    """
    if drv.is_fixed_output:
        out = drv.outputs["out"]
        content = f"fixed:out:{out.hash_algorithm}:{out.hash}:{out.path}"
        return sha256(content.encode("utf-8", "surrogateescape")).digest()
    in_order = sorted(drv.input_derivations.items())
    inputs = {lookup(path).hex(): outputs for path, outputs in in_order}
    return sha256(_unparse(drv, inputs)).digest()


def input_hashes(
    drv: Derivation,
    read: Callable[[StorePath], Derivation],
    memo: MutableMapping[StorePath, bytes],
) -> dict[StorePath, bytes]:
    """Hash the input derivations of a derivation, and theirs, as far as nobody did before.

    Args:
        drv: The derivation whose inputs are wanted.
        read: Reads a valid derivation of the store.
        memo: What is known from earlier calls; it may forget what it is given.

    Returns:
        The hash of each direct input, and of whatever else had to be looked at:
        its `__getitem__` is the look-up that `hash_derivation_modulo` wants.

    Raises:
        DerivationError: A derivation is among its own inputs.
        StoreError: Whatever `read` raises.
    """
    known: dict[StorePath, bytes] = {}
    opened: dict[StorePath, Derivation] = {}
    pending = list(drv.input_derivations)
    while pending:
        path = pending[-1]
        remembered = known.get(path) or memo.get(path)
        if remembered is not None:
            known[path] = remembered
            pending.pop()
            continue
        seen = path in opened
        if not seen:
            opened[path] = read(path)
        missing = _unhashed_inputs(opened[path], known)
        if missing and seen:
            raise DerivationError(f"derivation `{path}' is among its own inputs")
        if missing:
            pending.extend(missing)
        else:
            memo[path] = known[path] = hash_derivation_modulo(opened.pop(path), known.__getitem__)
            pending.pop()
    return known


def fill_output_paths(
    drv: Derivation, name: str, store: StoreDirectory, lookup: HashLookup
) -> Derivation:
    """Return a new derivation's final form, in which outputs and variables name their paths.

    Args:
        drv: The derivation; the paths of its outputs and the variables of their
            names are overwritten.
        name: Its name, without ``.drv``.
        store: The directory the outputs will lie in.
        lookup: As `hash_derivation_modulo` wants it.

    Raises:
        StoreError: A fixed output's hash, an output's name or the name is unsuitable.
    """
    paths = _expected_paths(drv, name, store, lookup)
    outputs = {key: replace(output, path=paths[key]) for key, output in drv.outputs.items()}
    return replace(drv, outputs=outputs, env={**drv.env, **paths})


def check_output_paths(
    drv_path: StorePath, drv: Derivation, store: StoreDirectory, lookup: HashLookup
) -> None:
    """Refuse a derivation whose outputs or variables name other paths than follow from it.

    Without this check anybody could claim any path of the store as an output.

    Raises:
        DerivationError: One does not; the words are the reference daemon's.
        StoreError: A fixed output's hash or the resulting name is unsuitable.
    """
    expected = _expected_paths(drv, derivation_name(drv_path), store, lookup)
    for name, path in expected.items():
        stated = drv.outputs[name].path
        if stated != path or drv.env.get(name) != path:
            raise DerivationError(
                f"derivation `{drv_path}' has incorrect output `{stated}', should be `{path}'"
            )


def _expected_paths(
    drv: Derivation, name: str, store: StoreDirectory, lookup: HashLookup
) -> dict[str, StorePath]:
    if drv.is_fixed_output:
        recursive, digest = drv.outputs["out"].fixed_content()
        return {"out": store.fixed_output_path(name, recursive, digest)}
    blank = {key: replace(output, path="") for key, output in drv.outputs.items()}
    masked = replace(drv, outputs=blank, env={**drv.env, **dict.fromkeys(blank, "")})
    digest_modulo = hash_derivation_modulo(masked, lookup)
    return {key: store.output_path(key, digest_modulo, name) for key in blank}


def _unhashed_inputs(drv: Derivation, known: Mapping[StorePath, bytes]) -> list[StorePath]:
    if drv.is_fixed_output:
        return []
    return [path for path in drv.input_derivations if path not in known]


def _algorithm(word: str) -> HashAlgorithm:
    return HashAlgorithm.parse(word.removeprefix("r:"))


def _assemble(fields: Sequence[aterm.Field], store: StoreDirectory) -> Derivation:
    outputs, inputs, sources, system, builder, args, env = fields
    return Derivation(
        _read_outputs(outputs, store),
        _read_inputs(inputs, store),
        _ordered("input source", map(store.parse, sources.strings)),
        system.strings[0],
        builder.strings[0],
        tuple(args.strings),
        _read_env(env),
    )


def _read_outputs(field: aterm.Field, store: StoreDirectory) -> dict[str, Output]:
    strings = iter(field.strings)
    rows = list(zip(strings, strings, strings, strings, strict=True))
    found = {row[0]: _read_output(row, store) for row in rows}
    _ordered("output path", [output.path for output in found.values()])
    return {name: found[name] for name in _ordered("output", field.strings[::4])}


def _read_output(row: tuple[str, str, str, str], store: StoreDirectory) -> Output:
    name, path, algorithm, digits = row
    if _OUTPUT_NAME.fullmatch(name) is None:
        raise DerivationError(f"no output can be called `{name}'")
    output = Output(store.parse(path), algorithm, digits)
    if digits:
        output.fixed_content()
    elif algorithm:
        # Clients may state an algorithm without a hash; the output is not fixed then.
        _algorithm(algorithm)
    return output


def _read_inputs(field: aterm.Field, store: StoreDirectory) -> dict[StorePath, tuple[str, ...]]:
    paths, wanted = _split_inputs(field)
    for path in paths:
        if not path.endswith(DERIVATION_SUFFIX):
            raise DerivationError(f"input derivation `{path}' is no derivation")
    found = dict(zip(map(store.parse, paths), wanted, strict=True))
    return {path: found[path] for path in _ordered("input derivation", map(StorePath, paths))}


def _split_inputs(field: aterm.Field) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    strings, items = field.strings, field.skeleton.split("(")[1:]
    if field.skeleton.count('(",["])') == len(items):
        # Nearly always one output of each is wanted, and there may be thousands.
        return strings[::2], [(output,) for output in strings[1::2]]
    paths, wanted, position = [], [], 0
    for item in items:
        end = position + item.count('"')
        paths.append(strings[position])
        wanted.append(_ordered("wanted output", strings[position + 1 : end]))
        position = end
    return paths, wanted


def _read_env(field: aterm.Field) -> dict[str, str]:
    found = dict(zip(field.strings[::2], field.strings[1::2], strict=True))
    if len(found) * 2 != len(field.strings):
        _ordered("variable", field.strings[::2])
    return {name: found[name] for name in _in_byte_order(found)}


_Text = TypeVar("_Text", bound=str)


def _ordered(what: str, strings: Iterable[_Text]) -> tuple[_Text, ...]:
    """Sort strings, and refuse one that is there twice."""
    ordered = sorted(strings)
    if len(set(ordered)) < len(ordered):
        twice = next(first for first, second in pairwise(ordered) if first == second)
        raise DerivationError(f"{what} `{twice}' is named twice")
    return tuple(ordered)


def _in_byte_order(strings: Collection[str]) -> list[str]:
    if "".join(strings).isascii():
        return sorted(strings)
    # Surrogates, which stand for single bytes, sort elsewhere than those bytes.
    return sorted(strings, key=lambda text: text.encode("utf-8", "surrogateescape"))


def _unparse(drv: Derivation, inputs: Mapping[str, tuple[str, ...]]) -> bytes:
    outputs = [
        _tuple([name, output.path, output.hash_algorithm, output.hash])
        for name, output in sorted(drv.outputs.items())
    ]
    wanted = [
        f"({aterm.quote(path)},{_strings(sorted(set(outputs)))})"
        for path, outputs in sorted(inputs.items())
    ]
    variables = [_tuple([name, drv.env[name]]) for name in _in_byte_order(drv.env)]
    fields = (
        aterm.write_list(outputs),
        aterm.write_list(wanted),
        # What is in order already, as a rule, is sorted much more quickly than a set of it.
        _strings(dict.fromkeys(sorted(drv.input_sources))),
        aterm.quote(drv.system),
        aterm.quote(drv.builder),
        _strings(drv.args),
        aterm.write_list(variables),
    )
    return f"Derive({','.join(fields)})".encode("utf-8", "surrogateescape")


def _tuple(strings: Iterable[str]) -> str:
    return f"({','.join(map(aterm.quote, strings))})"


def _strings(strings: Iterable[str]) -> str:
    return aterm.write_list(map(aterm.quote, strings))
