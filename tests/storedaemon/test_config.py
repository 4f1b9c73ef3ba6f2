# SPDX-License-Identifier: GPL-3.0-or-later
"""The option table, and how the sources are merged and checked."""

import dataclasses
from collections.abc import Iterable
from enum import StrEnum
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.network import NetworkMode
from builder.options import LogCompression
from builder.retries.policy import RETRIABLE
from storedaemon.addresses import TcpAddress, UnixAddress
from storedaemon.config import (
    COMMAND_LINE,
    Config,
    ConfigError,
    Source,
    environment_source,
    make_config,
    toml_source,
)
from storedaemon.option_table import OPTIONS, ValueType
from storedaemon.settings import build_settings, weights


def command(**values: object) -> Source:
    """What the command line says, from /home/me."""
    return Source(COMMAND_LINE, {k.replace("_", "-"): v for k, v in values.items()}, "/home/me")


def test_options_and_config_name_the_same_things():
    """Every option has its attribute, and every attribute an option."""
    fields = {field.name for field in dataclasses.fields(Config)}
    assert {option.attribute for option in OPTIONS} == fields
    assert len(OPTIONS) == len({option.name for option in OPTIONS})


def test_defaults_are_those_of_the_system():
    """With nothing said, the daemon serves the store where Guix has it."""
    config = make_config([])
    assert config.layout.store == "/gnu/store"
    assert config.layout.database_file == "/var/guix/db/db.sqlite"
    assert config.logs == "/var/log/guix"
    assert config.configuration == "/etc/guix"
    assert config.guix_addresses == (UnixAddress("/var/guix/daemon-socket/socket"),)
    assert config.native_addresses == (UnixAddress("/var/guix/daemon-socket/storedaemon"),)


def test_directories_follow_a_state_directory_elsewhere():
    """A private daemon keeps everything under its state directory."""
    config = make_config([command(store="s", state="run")])
    assert config.store == "/home/me/s"
    assert config.database == "/home/me/run/db"
    assert config.logs == "/home/me/run/log"
    assert config.configuration == "/home/me/run/etc"


def test_command_line_beats_file_beats_environment():
    """The first source that names an option wins."""
    file = toml_source('store = "/file"\nstate = "/file-state"\n', "/etc/x.toml", "/etc")
    environment = environment_source(
        {
            "NIX_STORE_DIR": "/environment",
            "GUIX_STATE_DIRECTORY": "/environment-state",
            "GUIX_LOG_DIRECTORY": "/environment-log",
        }
    )
    config = make_config([command(store="/command", state=None), file, environment])
    assert (config.store, config.state, config.logs) == (
        "/command",
        "/file-state",
        "/environment-log",
    )


def test_environment_prefers_the_newer_variable_and_skips_empty_ones():
    """NIX_STORE_DIR stands before NIX_STORE, and an empty variable says nothing."""
    both = environment_source({"NIX_STORE_DIR": "/new", "NIX_STORE": "/old"})
    old = environment_source({"NIX_STORE_DIR": "", "NIX_STORE": "/old"})
    assert make_config([both]).store == "/new"
    assert make_config([old]).store == "/old"


def test_file_values_have_their_types():
    """Numbers, flags, lists and choices of a TOML file arrive checked."""
    text = """
        max-jobs = 4
        disable-chroot = true
        chroot-directory = ["/usr", "/bin=bin"]
        listen-guix = "localhost"
        log-compression = "bzip2"
        "impersonate-linux-2.6" = true
    """
    config = make_config([toml_source(text, "/etc/x.toml", "/etc")])
    assert config.max_jobs == 4
    assert config.disable_chroot
    assert config.chroot_directories == ("/usr", "/bin=/etc/bin")
    assert config.guix_addresses == (TcpAddress("localhost", 44146),)
    assert config.native_addresses == ()
    assert config.log_compression == "bzip2"
    assert config.impersonate_linux_26


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max-job = 1",
            "x.toml: there is no option 'max-job'; the options are attempts, ",
        ),
        ("rounds = 0", "x.toml: rounds must be a whole number from 1 to 2147483647, not 0"),
        ("max-jobs = true", "x.toml: max-jobs must be a whole number from 0 to 2147483647, not Tr"),
        ("cores = -1", "x.toml: cores must be a whole number from 0"),
        ('timeout = "٣"', "x.toml: timeout must be a whole number"),
        ('disable-chroot = "yes"', "x.toml: disable-chroot must be true or false, not 'yes'"),
        ('log-compression = "lz"', "x.toml: log-compression must be one of gzip, bzip2, none"),
        ("listen = [3]", "x.toml: listen must be a file name or a list of them, not 3"),
        ('store = ""', "x.toml: store must be a file name, not ''"),
        ('store = ["/a"]', "x.toml: store must be a file name, not ['/a']"),
        ('listen-guix = "a:b"', "x.toml: listen-guix: 'a:b' is no address"),
        ('chroot-directory = "a=/b"', "x.toml: chroot-directory must be a directory, or TARGET"),
        ('store = "', "x.toml: "),
    ],
)
def test_bad_values_name_file_option_and_what_is_allowed(text: str, message: str):
    """An error can be acted on without reading the manual."""
    with pytest.raises(ConfigError) as caught:
        make_config([toml_source(text, "x.toml", "/")])
    assert caught.value.message.startswith(message)
    assert caught.value.reason == "configuration"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", TcpAddress("localhost", 44146)),
        ("localhost:9876", TcpAddress("localhost", 9876)),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("::1", TcpAddress("::1", 44146)),
        ("[::1]", TcpAddress("::1", 44146)),
        ("/a/../b", UnixAddress("/b")),
        ("./s", UnixAddress("/home/me/s")),
    ],
)
def test_addresses_are_read(text: str, address: TcpAddress | UnixAddress):
    """A slash makes a file name; a port is optional."""
    assert make_config([command(listen_guix=[text])]).guix_addresses == (address,)


@pytest.mark.parametrize("text", ["", ":80", "h:", "h:65536", "h:x", "[::1]x", "h:99999999", "a\0"])
def test_other_text_is_no_address(text: str):
    """What is neither form is refused by name."""
    with pytest.raises(ConfigError, match=r"listen-guix( must be|: .*is no address)"):
        make_config([command(listen_guix=[text])])


@pytest.mark.parametrize(
    ("name", "meanings"),
    [
        ("fixed-output-network", NetworkMode),
        ("log-compression", LogCompression),
        ("retry-on", RETRIABLE),
    ],
)
def test_choices_are_those_that_the_builder_knows(name: str, meanings: Iterable[StrEnum]):
    """The table has the builder's words without importing it."""
    (option,) = (option for option in OPTIONS if option.name == name)
    assert sorted(option.choices) == sorted(meanings)


def test_build_settings_carry_every_choice():
    """What the builder is told is what was configured."""
    config = make_config(
        [command(max_jobs="7", lose_logs=True, disable_deduplication=True, build_directory="/b")]
    )
    settings = build_settings(config, "x86_64-linux")
    assert (settings.system, settings.max_jobs, settings.build_directory) == (
        "x86_64-linux",
        7,
        "/b",
    )
    assert not settings.keep_log
    assert not settings.deduplicate
    assert settings.use_chroot
    assert build_settings(make_config([command(system="i686-linux")]), "x").system == "i686-linux"


@given(st.text())
def test_any_text_is_a_plain_absolute_file_name_or_an_error(text: str):
    """Whatever a user writes for a directory, the layout can rely on its form."""
    try:
        store = make_config([command(store=text)]).store
    except ConfigError:
        assert not text or "\0" in text
    else:
        assert str(PurePosixPath(store)) == store
        assert ".." not in PurePosixPath(store).parts
        assert store.startswith("/")


def test_each_kind_of_value_is_used():
    """No value type is left without an option that needs it."""
    assert {option.type for option in OPTIONS} == set(ValueType)


@pytest.mark.parametrize(
    ("value", "meaning"), [("yes", True), ("No", False), (True, True), (False, False)]
)
def test_switches_are_words_or_truth_values(value: object, meaning: bool):
    """The command line says yes or no, as that of the C++ daemon does; TOML says true or false."""
    assert make_config([command(gc_keep_derivations=value)]).gc_keep_derivations is meaning


@pytest.mark.parametrize("value", ["true", "", 1, None, [True]])
def test_other_words_are_no_switches(value: object):
    """What is neither is refused; a missing value leaves the default."""
    if value is None:
        assert make_config([command(gc_keep_derivations=value)]).gc_keep_derivations
        return
    with pytest.raises(ConfigError, match="gc-keep-derivations must be yes or no"):
        make_config([command(gc_keep_derivations=value)])


def test_the_collector_keeps_what_the_reference_keeps():
    """Derivers of live items stay, outputs of live derivations go."""
    config = make_config([])
    assert (config.gc_keep_outputs, config.gc_keep_derivations) == (False, True)


def test_shares_are_a_table_or_a_list():
    """What the command line repeats, a file says in a table."""
    text = '[shares]\nalice = 3\n"@staff" = 2\n'
    config = make_config([toml_source(text, "/etc/x.toml", "/etc")])
    assert weights(config) == {"alice": 3, "@staff": 2}
    assert weights(make_config([command(shares=["bob=1000"])])) == {"bob": 1000}


@pytest.mark.parametrize(
    "value", ["alice", "alice=0", "alice=1001", "=2", "@=2", "alice=x", {"a": 0.5}]
)
def test_shares_that_make_no_sense_are_refused(value: object):
    """The error says what would."""
    with pytest.raises(ConfigError, match="shares must be a USER=N or @GROUP=N"):
        make_config([command(shares=value)])
