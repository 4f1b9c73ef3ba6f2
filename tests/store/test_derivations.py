# SPDX-License-Identifier: GPL-3.0-or-later

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.derivations import (
    Derivation,
    Output,
    check_output_paths,
    derivation_name,
    fill_output_paths,
    hash_derivation_modulo,
    input_hashes,
    parse_derivation,
    unparse_derivation,
)
from store.errors import DerivationError
from store.hashes import HashAlgorithm
from store.paths import StoreDirectory, StorePath, is_derivation, name_of

DATA = Path(__file__).parent / "data"
GNU = StoreDirectory("/gnu/store")
NIX = StoreDirectory("/nix/store")

# Derivations that the reference daemon accepted from an unmodified client.
RECORDED = [
    text
    for text in json.loads((DATA / "additions.json").read_text())["texts"]
    if is_derivation(text["name"])
]

# A graph of derivations as Nix 2.8 instantiated it: fixed outputs of three kinds,
# several outputs, and two roots that differ only in where a fixed output comes from.
GRAPH: dict[StorePath, bytes] = {
    item["path"]: item["text"].encode()
    for item in json.loads((DATA / "derivation_graph.json").read_text())
}

HASH = "k9pad896kygyvpxli7f20bkl9813p9y4"
OUT = f"/gnu/store/{HASH}-a"
PLAIN = f'Derive([("out","{OUT}","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","{OUT}")])'


def no_inputs(path: StorePath) -> bytes:
    """Look up the hash of an input where there is none."""
    raise AssertionError(path)


def parse(text: str) -> Derivation:
    """Parse a derivation of /gnu/store."""
    return parse_derivation(text.encode("utf-8", "surrogateescape"), GNU, "test.drv")


def parse_graph() -> dict[StorePath, Derivation]:
    """Parse all of `GRAPH`."""
    return {path: parse_derivation(text, NIX, path) for path, text in GRAPH.items()}


@pytest.mark.parametrize("text", RECORDED, ids=lambda text: text["name"])
def test_recorded_derivations_are_reproduced(text: Mapping[str, str]):
    """Text, outputs, references and the derivation's own path all agree with the record."""
    data, path = text["text"].encode(), StorePath(text["path"])
    drv = parse_derivation(data, GNU, path)
    assert unparse_derivation(drv) == data
    assert sorted(drv.references) == sorted(text["references"])
    check_output_paths(path, drv, GNU, no_inputs)
    digest = hashlib.sha256(data).digest()
    assert GNU.text_path(text["name"], digest, drv.references) == path


@pytest.mark.parametrize("path", GRAPH, ids=name_of)
def test_a_graph_of_derivations_is_reproduced(path: StorePath):
    """Output paths follow from all inputs, through fixed outputs and several outputs."""
    drvs = parse_graph()
    drv = drvs[path]
    assert unparse_derivation(drv) == GRAPH[path]
    lookup = input_hashes(drv, drvs.__getitem__, {}).__getitem__
    check_output_paths(path, drv, NIX, lookup)
    blank = replace(
        drv,
        outputs={name: replace(output, path="") for name, output in drv.outputs.items()},
        env={name: value for name, value in drv.env.items() if name not in drv.outputs},
    )
    assert fill_output_paths(blank, derivation_name(path), NIX, lookup) == drv


def test_where_a_fixed_output_comes_from_does_not_matter():
    """Two derivations that differ only so are two, but have the same outputs."""
    drvs = parse_graph()
    first, second = (drv for path, drv in drvs.items() if name_of(path) == "top.drv")
    assert first != second
    assert first.output_paths == second.output_paths


def below(drv: Derivation, drvs: Mapping[StorePath, Derivation]) -> set[StorePath]:
    """Return all derivations that one needs, itself left out; fixed outputs need none."""
    found: set[StorePath] = set()
    for path in drv.input_derivations:
        found |= {path} | (set() if drvs[path].is_fixed_output else below(drvs[path], drvs))
    return found


def test_inputs_are_hashed_once_and_remembered():
    """Each derivation below is read once; with a filled memo nothing is read."""
    drvs = parse_graph()
    top = next(drv for path, drv in drvs.items() if name_of(path) == "top.drv")
    read: list[StorePath] = []

    def reading(path: StorePath) -> Derivation:
        read.append(path)
        return drvs[path]

    memo: dict[StorePath, bytes] = {}
    hashes = input_hashes(top, reading, memo)
    assert sorted(read) == sorted(hashes) == sorted(below(top, drvs))
    assert memo == hashes
    assert input_hashes(top, no_inputs, memo) == {
        path: hashes[path] for path in top.input_derivations
    }


def test_a_memo_that_forgets_does_no_harm():
    """A bounded cache may evict a hash while it is still needed."""

    class Forgetful(dict[StorePath, bytes]):
        def __setitem__(self, path: StorePath, value: bytes) -> None:
            pass

    drvs = parse_graph()
    top = next(drv for path, drv in drvs.items() if name_of(path) == "top.drv")
    assert input_hashes(top, drvs.__getitem__, Forgetful()) == input_hashes(
        top, drvs.__getitem__, {}
    )


def chain(length: int) -> dict[StorePath, Derivation]:
    """Make derivations each of which is the next one's input."""
    drvs: dict[StorePath, Derivation] = {}
    inputs: dict[StorePath, tuple[str, ...]] = {}
    for number in range(length):
        path = GNU.text_path(f"d{number}.drv", number.to_bytes(32), [])
        drvs[path] = Derivation({"out": Output(OUT)}, inputs, (), "s", "b", (), {"out": OUT})
        inputs = {path: ("out",)}
    return drvs


def test_a_long_chain_of_inputs_is_hashed():
    """The depth of the graph costs no stack."""
    drvs = chain(5000)
    top = list(drvs.values())[-1]
    assert len(input_hashes(top, drvs.__getitem__, {})) == 4999


def test_a_derivation_among_its_own_inputs_is_refused():
    """A cycle cannot be hashed; it must not hang either."""
    drvs = chain(3)
    first, *_, last = drvs
    drvs[first] = replace(drvs[first], input_derivations={last: ("out",)})
    with pytest.raises(DerivationError, match="is among its own inputs"):
        input_hashes(drvs[last], drvs.__getitem__, {})


def test_inputs_of_fixed_outputs_are_not_looked_at():
    """What a fixed output is made from does not count, so it is not read."""
    fixed = Output(OUT, "sha256", "00" * 32)
    path = GNU.join(f"{HASH}-f.drv")
    unread = GNU.join(f"{HASH}-unread.drv")
    drv = Derivation({"out": fixed}, {unread: ("out",)}, (), "s", "b", (), {})
    user = Derivation({"out": Output("")}, {path: ("out",)}, (), "s", "b", (), {})
    hashes = input_hashes(user, {path: drv}.__getitem__, {})
    content = f"fixed:out:sha256:{'00' * 32}:{OUT}"
    assert hashes == {path: hashlib.sha256(content.encode()).digest()}


def test_of_two_inputs_with_one_hash_the_later_counts():
    """As in the reference daemon, where one entry replaces the other."""
    first, second = (GNU.join(f"{digit * 32}-i.drv") for digit in "01")
    both = parse(PLAIN)
    both = replace(both, input_derivations={first: ("a",), second: ("b",)})
    alone = replace(both, input_derivations={second: ("b",)})

    def same_hash(_path: StorePath) -> bytes:
        return bytes(32)

    assert hash_derivation_modulo(both, same_hash) == hash_derivation_modulo(alone, same_hash)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", f"/gnu/store/{'0' * 32}-demo"),
        ("env", f"/gnu/store/{'0' * 32}-demo"),
        ("env", None),
    ],
)
def test_an_output_must_be_where_it_follows_to_be(name: str, value: str | None):
    """Neither the output nor its variable may name a path of the client's choosing."""
    text = next(text for text in RECORDED if text["name"] == "demo.drv")
    drv = parse_derivation(text["text"].encode(), GNU, "demo.drv")
    right = drv.outputs["out"].path
    if name == "path":
        drv = replace(drv, outputs={"out": Output(str(value))})
    elif value is None:
        drv = replace(drv, env={key: val for key, val in drv.env.items() if key != "out"})
    else:
        drv = replace(drv, env={**drv.env, "out": value})
    with pytest.raises(DerivationError) as caught:
        check_output_paths(StorePath(text["path"]), drv, GNU, no_inputs)
    stated = drv.outputs["out"].path
    assert str(caught.value).startswith(
        f"derivation `{text['path']}' has incorrect output `{stated}', should be `/gnu/store/"
    )
    if name == "env":
        assert str(caught.value).endswith(f"should be `{right}'")


def test_a_fixed_output_must_be_where_its_hash_says():
    """The path of a fixed output depends on nothing but hash and name."""
    text = next(text for text in RECORDED if text["name"] == "fixed.drv")
    drv = parse_derivation(text["text"].encode(), GNU, "fixed.drv")
    assert drv.is_fixed_output
    wrong = {"out": replace(drv.outputs["out"], hash="00" * 32)}
    with pytest.raises(DerivationError, match="has incorrect output"):
        check_output_paths(StorePath(text["path"]), replace(drv, outputs=wrong), GNU, no_inputs)


def test_a_path_that_is_no_derivation_has_no_derivation_name():
    """Outputs are named after derivations only."""
    assert derivation_name(GNU.join(f"{HASH}-hello-1.0.drv")) == "hello-1.0"
    with pytest.raises(DerivationError):
        derivation_name(GNU.join(f"{HASH}-hello-1.0"))


def test_a_hash_without_which_an_algorithm_stands_alone_fixes_nothing():
    """Clients may state an algorithm and no hash; the output is built like any other."""
    drv = parse(PLAIN.replace('"",""', '"r:sha256",""'))
    assert drv.outputs["out"] == Output(OUT, "r:sha256", "")
    assert not drv.is_fixed_output


def test_the_kind_of_hash_is_read_from_the_algorithm():
    """`r:` means the archive form."""
    recursive, digest = Output(OUT, "r:sha1", "ab" * 20).fixed_content()
    assert (recursive, digest.algorithm) == (True, HashAlgorithm.SHA1)
    recursive, digest = Output(OUT, "sha256", "ab" * 32).fixed_content()
    assert (recursive, digest.value) == (False, b"\xab" * 32)


def test_builtin_builders_are_known_by_their_prefix():
    """They run in no container of their own."""
    assert not parse(PLAIN).is_builtin
    assert parse(PLAIN.replace("/bin/sh", "builtin:download")).is_builtin


def test_parts_are_put_in_canonical_order():
    """Any order is accepted, and means the same."""
    a, b = (f"/gnu/store/{digit * 32}-i" for digit in "01")
    shuffled = PLAIN.replace('"x86', "#", 1).replace(
        ",[],[],#", f',[("{b}.drv",["y","x"]),("{a}.drv",["out"])],["{b}","{a}"],"x86'
    )
    shuffled = shuffled.replace('[("out",', '[("zz",""),("out",', 2).replace(
        '[("zz",""),("out"', '[("out"', 1
    )
    drv = parse(shuffled)
    assert drv.input_sources == (a, b)
    assert list(drv.input_derivations.items()) == [
        (f"{a}.drv", ("out",)),
        (f"{b}.drv", ("x", "y")),
    ]
    assert list(drv.env) == ["out", "zz"]
    assert parse_derivation(unparse_derivation(drv), GNU, "x") == drv


def test_a_derivation_may_have_no_output():
    """Guix writes such ones for expressions that make nothing."""
    text = 'Derive([],[],[],"x86_64-linux","/bin/sh",[],[])'
    assert parse(text).output_paths == ()
    assert unparse_derivation(parse(text)) == text.encode()


def test_variables_are_ordered_by_their_bytes():
    """A byte that is not UTF-8 sorts where it does on the wire, not where Unicode would put it."""
    names = [b"\xff", b"\xc3\xa9", b"\xef\xbf\xbd", b"a"]
    env = {name.decode("utf-8", "surrogateescape"): "" for name in names}
    data = unparse_derivation(replace(parse(PLAIN), env=env))
    offsets = [data.index(b'("' + name + b'"') for name in sorted(names)]
    assert offsets == sorted(offsets)
    parsed = parse_derivation(data, GNU, "x")
    assert unparse_derivation(parsed) == data
    assert list(parsed.env) == [name.decode("utf-8", "surrogateescape") for name in sorted(names)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('("out"', '("o/ut"', "no output can be called `o/ut'"),
        ('("out"', '(""', "no output can be called `'"),
        (f'"{OUT}","",""', '"","",""', "path `' is not in the store"),
        (f'"{OUT}","",""', '"/etc/passwd","",""', "path `/etc/passwd' is not in the store"),
        (
            f'"{OUT}","",""',
            '"/gnu/store/../../etc/x","",""',
            "path `/gnu/store/../../etc/x' is not in the store",
        ),
        ('"",""', '"md7","00"', "unknown hash type `md7'"),
        ('"",""', '"md7",""', "unknown hash type `md7'"),
        ('"",""', '"r:r:sha1",""', "unknown hash type `r:sha1'"),
        ('"",""', '"sha256","00"', "1 bytes but expected 32"),
        ('"",""', f'"sha256","{"zz" * 32}"', "invalid hash"),
        ('"",""', f'"","{"00" * 32}"', "unknown hash type `'"),
        (",[],[],", f',[("{OUT}",["out"])],[],', "is no derivation"),
        (",[],[],", ',[("/nix/store/x.drv",["out"])],[],', "is not in the store"),
        (",[],[],", f',[("{OUT}.drv",["a","a"])],[],', "wanted output `a' is named twice"),
        (
            ",[],[],",
            f',[("{OUT}.drv",["a"]),("{OUT}.drv",["b"])],[],',
            f"input derivation `{OUT}.drv' is named twice",
        ),
        (",[],[],", ',[],["/etc"],', "path `/etc' is not in the store"),
        (",[],[],", f',[],["{OUT}","{OUT}"],', f"input source `{OUT}' is named twice"),
        ('[("out","/gnu', '[("a","1"),("a","2"),("out","/gnu', "expected an output"),
        (f'("out","{OUT}")])', '("a","1"),("a","2")])', "variable `a' is named twice"),
        (f'("out","{OUT}")])', '("a\0","1")])', "any character but NUL"),
        ("Derive(", "derive(", "expected `Derive(' at byte 0"),
        ('[("out","/gnu', f'[("b","{OUT}","",""),("out","/gnu', "output path"),
    ],
)
def test_a_derivation_that_makes_no_sense_is_refused(old: str, new: str, message: str):
    """Each fault is named, after the derivation it is in."""
    text = PLAIN.replace(old, new, 1)
    assert text != PLAIN
    with pytest.raises(DerivationError) as caught:
        parse(text)
    assert str(caught.value).startswith("error parsing derivation `test.drv': ")
    assert message in str(caught.value)
    assert caught.value.reason == "invalid-derivation"


@pytest.mark.parametrize("end", range(0, len(PLAIN), 7))
def test_a_truncated_derivation_is_refused(end: int):
    """No prefix of a derivation is one."""
    with pytest.raises(DerivationError):
        parse(PLAIN[:end])


NAMES = st.text(alphabet="abcXYZ019+-._?=", min_size=1, max_size=8)
PATHS = st.builds(
    lambda number, name: GNU.text_path(f"x{name}", number.to_bytes(32), []),
    st.integers(0, 40),
    NAMES,
)
STRINGS = st.binary(max_size=12).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
DERIVATIONS = st.builds(
    Derivation,
    st.dictionaries(NAMES, st.just(""), min_size=1, max_size=3).map(
        lambda outputs: {
            name: Output(GNU.text_path(f"o{index}", bytes(32), []))
            for index, name in enumerate(sorted(outputs))
        }
    ),
    st.dictionaries(
        PATHS.map(lambda path: StorePath(f"{path}.drv")),
        st.lists(NAMES, max_size=3, unique=True).map(lambda names: tuple(sorted(names))),
        max_size=4,
    ),
    st.lists(PATHS, max_size=4, unique=True).map(lambda paths: tuple(sorted(paths))),
    STRINGS,
    STRINGS,
    st.lists(STRINGS, max_size=3).map(tuple),
    st.dictionaries(STRINGS, STRINGS, max_size=4),
)


@given(DERIVATIONS)
def test_what_is_unparsed_parses_to_the_same(drv: Derivation):
    """Nothing is lost on the way through a file."""
    data = unparse_derivation(drv)
    assert parse_derivation(data, GNU, "x") == drv
    assert unparse_derivation(parse_derivation(data, GNU, "x")) == data


@given(st.data())
def test_a_damaged_derivation_parses_or_is_an_error(data: st.DataObject):
    """No byte at any place makes anything else of it."""
    text = bytearray(PLAIN.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        drv = parse_derivation(bytes(text), GNU, "x")
    except DerivationError:
        return
    assert parse_derivation(unparse_derivation(drv), GNU, "x") == drv
