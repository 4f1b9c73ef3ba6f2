# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's configuration, merged from command line, TOML file and environment.

`make_config` merges what each source says of the options in
`storedaemon.option_table`, the first source winning, and checks every value.
Nothing here reads a file or the process's environment: sources are handed in.
Nothing of the builder is imported: the daemon listens only once it has this, and
`storedaemon.settings` says what it means to the builder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from store.errors import StoreError
from store.layout import Layout
from storedaemon.addresses import Address, UnixAddress, absolute_path, parse_address
from storedaemon.option_table import DEFAULT_STATE, OPTIONS, Option, Value, ValueType

COMMAND_LINE = "command line"
ENVIRONMENT = "environment"

MAX_NUMBER = 2**31 - 1
MAX_WEIGHT = 1000


class ConfigError(StoreError):
    """An option is unknown, or has a value it cannot have; the message names source and option."""

    default_reason: ClassVar[str] = "configuration"


_BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Config:
    """Every option with its checked value; file names are absolute.

    `listen` and `listen_guix` hold what was asked for; the properties apply the
    defaults. Empty `system` means this machine's; see `storedaemon.guix_program`
    for an empty `guix_program`.
    """

    store: str
    state: str
    database: str
    logs: str
    configuration: str
    build_directory: str
    listen: tuple[str, ...]
    listen_guix: tuple[str, ...]
    take_over_sockets: bool
    build_users_group: str
    guix_program: str
    no_offload: bool
    system: str
    max_jobs: int
    cores: int
    jobserver: bool
    jobserver_for: str
    jobserver_tokens: int
    workers: int
    chroot_directories: tuple[str, ...]
    disable_chroot: bool
    fixed_output_network: str
    isolate_host_loopback: bool
    slirp4netns: str
    content_sources: tuple[str, ...]
    content_addressed_mirrors: tuple[str, ...]
    max_download_size: int
    timeout: int
    max_silent_time: int
    rounds: int
    no_substitutes: bool
    substitute_urls: str
    max_substitutes: int
    discover: bool
    gc_keep_outputs: bool
    gc_keep_derivations: bool
    keep_detached: int
    max_shells: int
    shell_idle: int
    attempts: int
    retry_delay: int
    retry_cores: int
    retry_patience: int
    retry_on: tuple[str, ...]
    quiet_load: int
    quiet_pressure: int
    quiet_memory: int
    max_load: int
    max_cpu_pressure: int
    max_memory_pressure: int
    max_io_pressure: int
    spare_memory: int
    max_build_memory: int
    log_compression: str
    lose_logs: bool
    max_log_size: int
    cache_failures: bool
    disable_deduplication: bool
    impersonate_linux_26: bool
    trusted_users: tuple[str, ...]
    shares: tuple[str, ...]
    max_connections: int
    max_request_memory: int
    log_level: str
    log_format: str

    @property
    def layout(self) -> Layout:
        """Where everything of the store lies."""
        return Layout(self.store, self.state, self.database, self.logs, self.configuration)

    @property
    def native_addresses(self) -> tuple[UnixAddress, ...]:
        """Where native clients are served; the default holds when no socket at all is named."""
        if self.listen or self.listen_guix:
            return tuple(UnixAddress(path) for path in self.listen)
        return (UnixAddress(native_socket(self.state)),)

    @property
    def guix_addresses(self) -> tuple[Address, ...]:
        """Where Guix clients are served; the default holds when no socket at all is named."""
        if self.listen or self.listen_guix:
            return tuple(parse_address(text) for text in self.listen_guix)
        return (UnixAddress(guix_socket(self.state)),)


def native_socket(state: str) -> str:
    """Name the socket on which native clients find the daemon of a state directory."""
    return f"{state}/daemon-socket/storedaemon"


def guix_socket(state: str) -> str:
    """Name the socket on which Guix clients find the daemon of a state directory."""
    return f"{state}/daemon-socket/socket"


@dataclass(frozen=True, slots=True)
class Source:
    """What one place says about the options.

    Attributes:
        label: How errors name the place: a file name, or `COMMAND_LINE`.
        values: Values by option name: text, numbers and flags as TOML or argparse
            give them; None counts as not said. Text is read where a number is wanted.
        base: The directory at which relative file names start.
    """

    label: str
    values: Mapping[str, Any] = field(default_factory=dict)
    base: str = "/"


def toml_source(text: str, label: str, base: str) -> Source:
    """Read a configuration file whose text is given.

    Raises:
        ConfigError: It is not TOML.
    """
    import tomllib  # noqa: PLC0415 - the command line must not wait for it where no file is read

    try:
        return Source(label, tomllib.loads(text), base)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: {error}") from error


def environment_source(environment: Mapping[str, str]) -> Source:
    """Pick the options that variables give; an empty variable counts as unset."""
    values = {
        option.name: next(filter(None, map(environment.get, option.environment)), None)
        for option in OPTIONS
    }
    if not values["guix-program"] and environment.get("NIX_BIN_DIR"):
        values["guix-program"] = f"{environment['NIX_BIN_DIR']}/guix"
    return Source(ENVIRONMENT, values)


def make_config(sources: Sequence[Source]) -> Config:
    """Merge the sources, the first that names an option winning, and fill in the defaults.

    Raises:
        ConfigError: Names the source, the option and what would be allowed.
    """
    values: dict[str, Any] = {}
    for source in sources:
        for name, value in source.values.items():
            option = find_option(name, source.label)
            if value is not None and name not in values:
                values[name] = check(option, value, source)
    complete: dict[str, Any] = {
        option.attribute: values.get(option.name, option.default) for option in OPTIONS
    }
    complete |= _derived(complete)
    return Config(**complete)


def find_option(name: str, label: str) -> Option:
    """Look an option up by its name.

    Raises:
        ConfigError: No option has that name.
    """
    option = _BY_NAME.get(name)
    if option is None:
        known = ", ".join(sorted(_BY_NAME))
        raise ConfigError(f"{label}: there is no option '{name}'; the options are {known}")
    return option


def _derived(values: Mapping[str, Any]) -> dict[str, str]:
    """Place the directories that nobody named: beside the state, unless it is the system's."""
    state = values["state"]
    system = state == DEFAULT_STATE
    return {
        "database": values["database"] or f"{state}/db",
        "logs": values["logs"] or ("/var/log/guix" if system else f"{state}/log"),
        "configuration": values["configuration"] or ("/etc/guix" if system else f"{state}/etc"),
    }


def check(option: Option, value: Any, source: Source) -> Value:
    """Check one value as a source gives it.

    Raises:
        ConfigError: Names the source, the option and what would be allowed.
    """
    checker = _CHECKERS[option.type]
    if not option.repeatable:
        return checker(option, value, source)
    if option.type is ValueType.SHARE and isinstance(value, Mapping):
        value = [f"{name}={weight}" for name, weight in value.items()]
    items: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return tuple(str(checker(option, item, source)) for item in items)


def _text(option: Option, value: Any, source: Source) -> str:
    if isinstance(value, str) and "\0" not in value:
        return value
    raise _unsuitable(option, value, source)


def _number(option: Option, value: Any, source: Source) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    good = isinstance(value, int) and not isinstance(value, bool)
    if not good or not option.minimum <= value <= MAX_NUMBER:
        raise _unsuitable(option, value, source)
    return int(value)


def _flag(option: Option, value: Any, source: Source) -> bool:
    if isinstance(value, bool):
        return value
    raise _unsuitable(option, value, source)


def _switch(option: Option, value: Any, source: Source) -> bool:
    known = {True: True, False: False, "yes": True, "no": False}
    word = value.lower() if isinstance(value, str) else value
    if isinstance(word, str | bool) and word in known:
        return known[word]
    raise _unsuitable(option, value, source)


def _choice(option: Option, value: Any, source: Source) -> str:
    if value in option.choices:
        return str(value)
    raise _unsuitable(option, value, source)


def _path(option: Option, value: Any, source: Source) -> str:
    return _absolute(_text(option, value, source), option, source)


def _socket(option: Option, value: Any, source: Source) -> str:
    try:
        return str(parse_address(_text(option, value, source), source.base))
    except StoreError as error:
        raise ConfigError(f"{source.label}: {option.name}: {error.message}") from error


def _bind(option: Option, value: Any, source: Source) -> str:
    """Make ``DIR`` absolute, or the right side of ``TARGET=DIR``, as the reference splits it."""
    target, equals, directory = _text(option, value, source).partition("=")
    if not equals:
        return _absolute(target, option, source)
    if not target.startswith("/"):
        raise _unsuitable(option, value, source)
    absolute = _absolute(directory, option, source)
    return f"{_absolute(target, option, source)}={absolute}"


def _share(option: Option, value: Any, source: Source) -> str:
    name, _, weight = _text(option, value, source).rpartition("=")
    good = weight.isascii() and weight.isdigit() and 1 <= int(weight[:9]) <= MAX_WEIGHT
    if not (good and name.removeprefix("@")):
        raise _unsuitable(option, value, source)
    return f"{name}={int(weight)}"


def _absolute(path: str, option: Option, source: Source) -> str:
    if not path:
        raise _unsuitable(option, path, source)
    return absolute_path(path, source.base)


_CHECKERS: Mapping[ValueType, Callable[[Option, Any, Source], str | int | bool]] = {
    ValueType.TEXT: _text,
    ValueType.PATH: _path,
    ValueType.SOCKET: _socket,
    ValueType.BIND: _bind,
    ValueType.SHARE: _share,
    ValueType.NUMBER: _number,
    ValueType.FLAG: _flag,
    ValueType.SWITCH: _switch,
    ValueType.CHOICE: _choice,
}


def _unsuitable(option: Option, value: Any, source: Source) -> ConfigError:
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}…"
    return ConfigError(f"{source.label}: {option.name} must be {_allowed(option)}, not {shown}")


def _allowed(option: Option) -> str:
    match option.type:
        case ValueType.NUMBER:
            return f"a whole number from {option.minimum} to {MAX_NUMBER}"
        case ValueType.CHOICE:
            return "one of " + ", ".join(option.choices)
        case ValueType.FLAG | ValueType.SWITCH:
            return str(option.type)
        case _:
            return f"a {option.type}" + (" or a list of them" if option.repeatable else "")
