# SPDX-License-Identifier: GPL-3.0-or-later
"""What the options of guix-daemon, and its environment, mean to this daemon."""

from pathlib import Path
from typing import Any

import pytest

from store.errors import StoreError
from storedaemon.addresses import TcpAddress, UnixAddress
from storedaemon.config import Config, ConfigError
from storedaemon.guix_daemon.argp import read_options
from storedaemon.guix_daemon.main import configuration
from storedaemon.guix_daemon.translation import OPTIONS, OptionError, translate


def configure(*words: str, **environment: str) -> Config:
    """The configuration for a command line and an environment, in /home/me."""
    values = translate(read_options(OPTIONS, words))
    # No file of this machine is to be read.
    variables = {"GUIX_CONFIGURATION_DIRECTORY": "/nonexistent", **environment}
    return configuration(values, variables, "/home/me")


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        (["--system=i686-linux"], "system", "i686-linux"),
        (["-c3"], "cores", 3),
        (["--max-jobs=0"], "max_jobs", 0),
        (["-M2", "-M", "5"], "max_jobs", 5),
        (["--timeout=+7"], "timeout", 7),
        (["--max-silent-time= 9"], "max_silent_time", 9),
        (["--disable-chroot"], "disable_chroot", True),
        (
            ["--chroot-directory=/a /b=/c", "--chroot-dir=d"],
            "chroot_directories",
            ("/a", "/b=/c", "/home/me/d"),
        ),
        (["--build-users-group=builders"], "build_users_group", "builders"),
        (["--no-substitutes"], "no_substitutes", True),
        (["--substitute-urls=http://a http://b"], "substitute_urls", "http://a http://b"),
        (["--substitute-urls="], "substitute_urls", ""),
        (["--no-offload"], "no_offload", True),
        (["--no-build-hook"], "no_offload", True),
        (["--cache-failures"], "cache_failures", True),
        (["--rounds=3"], "rounds", 3),
        (["--rounds=0"], "rounds", 1),
        (["--rounds="], "rounds", 1),
        (["--lose-logs"], "lose_logs", True),
        (["--disable-log-compression"], "log_compression", "none"),
        (["--log-compression=bzip2"], "log_compression", "bzip2"),
        (["--discover"], "discover", True),
        (["--discover=YES"], "discover", True),
        (["--discover", "--discover=no"], "discover", False),
        (["--disable-deduplication"], "disable_deduplication", True),
        (["--disable-store-optimization"], "disable_deduplication", True),
        (["--impersonate-linux-2.6"], "impersonate_linux_26", True),
        (["--gc-keep-outputs"], "gc_keep_outputs", True),
        (["--gc-keep-derivations=no"], "gc_keep_derivations", False),
        (["--listen=/a/b", "--listen=localhost:9"], "listen_guix", ("/a/b", "localhost:9")),
        (["--debug"], "log_level", "debug"),
        (["--isolate-host-loopback"], "isolate_host_loopback", True),
    ],
)
def test_each_option_has_its_meaning(words: list[str], attribute: str, value: Any):
    """Beside what is named, the configuration is that of an empty command line."""
    config = configure(*words)
    assert getattr(config, attribute) == value


def test_every_option_is_translated():
    """None of the table is accepted and then forgotten."""
    for option in OPTIONS:
        argument = {"yes/no": "no", "TYPE": "none"}.get(option.argument, "1")
        assert translate([(option.key, argument if option.argument else None)]), option.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--discover=maybe"], "'maybe': invalid Boolean value"),
        (["--gc-keep-outputs=true"], "'true': invalid Boolean value"),
        (["--gc-keep-derivations="], "'': invalid Boolean value"),
        (["--log-compression=xz"], "xz: unknown compression type"),
        (["--rounds=x"], "x: invalid number of rounds"),
        (["--rounds=-3"], "-3: invalid number of rounds"),
        (["-Mx"], "configuration setting `build-max-jobs' should have an integer value"),
        (
            ["--cores=99999999999"],
            "configuration setting `build-cores' should have an integer value",
        ),
        (["--timeout="], "configuration setting `build-timeout' should have an integer value"),
        (
            ["--max-silent-time=5x"],
            "configuration setting `build-max-silent-time' should have an integer value",
        ),
        (["-Mx", "--rounds=y"], "y: invalid number of rounds"),
    ],
)
def test_wrong_arguments_are_named_as_the_reference_names_them(words: list[str], message: str):
    """The texts are the C++ daemon's."""
    with pytest.raises(OptionError) as caught:
        configure(*words)
    assert caught.value.message == message


def test_directories_are_the_references():
    """Logs and keys stay where they are, wherever the state is."""
    config = configure(GUIX_STATE_DIRECTORY="/s", GUIX_CONFIGURATION_DIRECTORY="")
    assert (config.store, config.state, config.database) == ("/gnu/store", "/s", "/s/db")
    assert (config.logs, config.configuration) == ("/var/log/guix", "/etc/guix")
    assert config.build_directory == "/tmp"
    assert config.guix_addresses == (UnixAddress("/s/daemon-socket/socket"),)
    assert config.native_addresses == (UnixAddress("/s/daemon-socket/storedaemon"),)
    assert config.take_over_sockets


def test_the_environment_says_where_things_are():
    """All variables of the C++ daemon are read."""
    config = configure(
        NIX_STORE="/old",
        GUIX_LOG_DIRECTORY="/l/",
        GUIX_STATE_DIRECTORY="/s",
        GUIX_DATABASE_DIRECTORY="/d",
        GUIX_CONFIGURATION_DIRECTORY="/e",
        NIX_BIN_DIR="/bin",
        TMPDIR="/t",
    )
    assert config.layout.store == "/old"
    assert (config.logs, config.state, config.database) == ("/l", "/s", "/d")
    assert (config.configuration, config.build_directory) == ("/e", "/t")
    assert config.guix_program == "/bin/guix"
    both = configure(NIX_STORE="/old", NIX_STORE_DIR="/new", NIX_BIN_DIR="/bin", GUIX="/g/guix")
    assert (both.store, both.guix_program) == ("/new", "/g/guix")


def test_relative_directories_are_refused():
    """As in the C++ daemon: who inherits a working directory cannot mean one."""
    with pytest.raises(ConfigError, match="not an absolute path: `store'"):
        configure(NIX_STORE_DIR="store")


def test_only_the_sockets_that_are_named_are_opened():
    """A second daemon with a socket of its own leaves all of the first's alone."""
    config = configure("--listen=/a", "--listen=localhost", "--listen=[::1]:7")
    assert config.native_addresses == ()
    assert config.guix_addresses == (
        UnixAddress("/a"),
        TcpAddress("localhost", 44146),
        TcpAddress("::1", 7),
    )


@pytest.mark.parametrize("address", ["", ":7", "host:port", "host:65536"])
def test_what_is_no_address_is_refused(address: str):
    """The error names it."""
    with pytest.raises(StoreError, match=r"listen-guix|no address"):
        configure(f"--listen={address}")


def test_a_file_says_what_the_command_line_cannot(tmp_path: Path):
    """It comes last: what the C++ daemon would heed goes before it."""
    (tmp_path / "storedaemon.toml").write_text(
        'store = "/file"\nmax-jobs = 7\ntrusted-user = ["me"]\nlisten = ["/n"]\n'
        'log-directory = "/file-logs"\n'
    )
    config = configure("-M3", NIX_STORE_DIR="/env", GUIX_CONFIGURATION_DIRECTORY=str(tmp_path))
    assert (config.store, config.max_jobs, config.trusted_users) == ("/env", 3, ("me",))
    assert config.logs == "/file-logs"
    # Naming a native socket takes nothing from Guix clients.
    assert config.guix_addresses == (UnixAddress("/var/guix/daemon-socket/socket"),)
    assert config.native_addresses == (UnixAddress("/n"),)


def test_a_broken_file_is_named(tmp_path: Path):
    """It is not passed over in silence."""
    for data in (b"max-jobs = ", b"\xff", b'what = "this"'):
        (tmp_path / "storedaemon.toml").write_bytes(data)
        with pytest.raises(ConfigError, match=f"{tmp_path}/storedaemon.toml: "):
            configure(GUIX_CONFIGURATION_DIRECTORY=str(tmp_path))
