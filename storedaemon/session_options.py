# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client may set for its session, and what becomes of it; pure.

Some settings are anybody's, all others take effect only when a trusted client
sends them: an untrusted one's are kept under another name. Entry points:
`SessionOptions`, `apply_settings`, `build_options`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from builder.options import BuildMode, BuildOptions
from builder.retries.policy import RetrySettings
from builder.substitution.offers import TRUSTED_URLS, Sources
from store.errors import StoreError
from storedaemon.config import Config
from storedaemon.settings import retry_settings

# The settings that every client may give, as in the reference.
NUMBERS: Mapping[str, str] = {
    "build-timeout": "timeout",
    "build-max-silent-time": "max_silent_time",
    "build-max-jobs": "max_jobs",
    "build-cores": "cores",
    "build-repeat": "repeat",
}
# Those of ours that a trusted client may give.
RETRY_NUMBERS: Mapping[str, str] = {
    "build-attempts": "attempts",
    "build-retry-delay": "delay",
    "build-retry-cores": "cores",
}
FLAGS: Mapping[str, str] = {"multiplexed-build-output": "multiplexed_build_output"}

# The settings of a trusted client that have an effect; `operations.garbage` reads
# those of the collector where they are kept.
TRUSTED_NUMBERS: Mapping[str, str] = {"build-max-log-size": "max_log_size"}
TRUSTED_FLAGS: Mapping[str, str] = {
    "build-fallback": "fallback",
    "build-use-substitutes": "use_substitutes",
    "build-keep-log": "keep_log",
    "build-cache-failure": "cache_failures",
}

# These may have no other values either, but are about how the C++ daemon works, or
# are for this daemon's owner alone to decide.
CHECKED_NUMBERS = frozenset({"gc-reserved-space", "build-poll-interval"})
CHECKED_FLAGS = frozenset(
    {
        "fsync-metadata",
        "use-sqlite-wal",
        "sync-before-registering",
        "build-use-chroot",
        "build-impersonate-linux-26",
        "gc-check-reachability",
        "gc-keep-outputs",
        "gc-keep-derivations",
        "auto-optimise-store",
        "env-keep-derivations",
    }
)

UNTRUSTED_PREFIX = "untrusted-"
MAX_NUMBER = 2**31 - 1
# More would only serve to fill memory; Guix's client sends about ten.
MAX_SETTINGS = 256


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a client set for its session; None where it said nothing and the daemon decides.

    Attributes:
        keep_failed: Keep the directories of failed builds.
        keep_going: Build what can be built when something failed.
        fallback: Build what cannot be substituted.
        verbosity: How much the client wants to be told, 0 to 5.
        use_offload: Whether builds may be handed to other machines.
        print_build_trace: Whether ``@ build-started`` lines are wanted.
        use_substitutes: Whether substitutes may be used.
        timeout: Seconds a build may take; 0 for no limit.
        max_silent_time: Seconds a build may stay silent; 0 for no limit.
        max_jobs: Builds of this client at once.
        cores: What builds are told; 0 for all.
        repeat: How often a build is repeated to compare its results.
        multiplexed_build_output: Whether log lines are framed with their build.
        max_log_size: Bytes of output after which a build is ended; 0 for no limit.
        keep_log: Whether logs are kept.
        cache_failures: Whether lasting failures are remembered.
        settings: All other settings by name; those of an untrusted client bear
            the prefix ``untrusted-``.
    """

    keep_failed: bool = False
    keep_going: bool = False
    fallback: bool = False
    verbosity: int = 0
    use_offload: bool = True
    print_build_trace: bool = False
    use_substitutes: bool = True
    timeout: int | None = None
    max_silent_time: int | None = None
    max_jobs: int | None = None
    cores: int | None = None
    repeat: int | None = None
    multiplexed_build_output: bool = False
    max_log_size: int | None = None
    keep_log: bool | None = None
    cache_failures: bool | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def apply_settings(
    options: SessionOptions, pairs: Iterable[tuple[str, str]], *, trusted: bool
) -> SessionOptions:
    """Take the name and value pairs of a client into its options.

    Raises:
        StoreError: With reason ``invalid-setting``: a value is not what its name
            needs, or the pairs are too many.
    """
    known: dict[str, int | bool] = {}
    others = dict(options.settings)
    for name, value in pairs:
        if name in NUMBERS:
            known[NUMBERS[name]] = _number(name, value)
        elif name in FLAGS:
            known[FLAGS[name]] = _flag(name, value)
        elif not trusted:
            others[UNTRUSTED_PREFIX + name] = value
        elif name in TRUSTED_NUMBERS:
            known[TRUSTED_NUMBERS[name]] = _number(name, value)
        elif name in TRUSTED_FLAGS:
            known[TRUSTED_FLAGS[name]] = _flag(name, value)
        else:
            _check(name, value)
            others[name] = value
    if len(others) > MAX_SETTINGS:
        raise StoreError(
            f"a session may set at most {MAX_SETTINGS} options", reason="invalid-setting"
        )
    return replace(options, **known, settings=others)  # type: ignore[arg-type]


def _check(name: str, value: str) -> None:
    if name in CHECKED_NUMBERS:
        _number(name, value)
    elif name in CHECKED_FLAGS:
        _flag(name, value)


def _number(name: str, value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= MAX_NUMBER:
        return int(value)
    raise StoreError(
        f"configuration setting `{name}' should have an integer value", reason="invalid-setting"
    )


def _flag(name: str, value: str) -> bool:
    if value in ("true", "false"):
        return value == "true"
    raise StoreError(
        f"configuration option `{name}' should be either `true' or `false', not `{value:.80}'",
        reason="invalid-setting",
    )


def _wants_download_traces(settings: Mapping[str, str]) -> bool:
    """Tell whether a client reads more than the plain trace; it need not be trusted for that."""
    names = "print-extended-build-trace", f"{UNTRUSTED_PREFIX}print-extended-build-trace"
    return any(settings.get(name) == "1" for name in names)


def build_options(options: SessionOptions, config: Config, mode: BuildMode) -> BuildOptions:
    """Merge what a client set with what the daemon is configured to do otherwise."""
    rounds = config.rounds if options.repeat is None else options.repeat + 1
    silence = options.max_silent_time
    return BuildOptions(
        mode=mode,
        keep_failed=options.keep_failed,
        keep_going=options.keep_going,
        cores=config.cores if options.cores is None else options.cores,
        max_jobs=options.max_jobs,
        timeout=config.timeout if options.timeout is None else options.timeout,
        max_silent_time=config.max_silent_time if silence is None else silence,
        rounds=rounds,
        offload=options.use_offload,
        print_build_trace=options.print_build_trace,
        download_traces=_wants_download_traces(options.settings),
        keep_log=options.keep_log,
        max_log_size=options.max_log_size,
        cache_failures=options.cache_failures,
        sources=substitute_sources(options, config),
        fallback=options.fallback,
        retries=_retries(options.settings, config),
    )


def _retries(settings: Mapping[str, str], config: Config) -> RetrySettings:
    wishes = {
        field: _number(name, settings[name])
        for name, field in RETRY_NUMBERS.items()
        if name in settings
    }
    if wishes.get("attempts") == 0:
        raise StoreError("a build needs at least one attempt", reason="invalid-setting")
    base = retry_settings(config)
    return replace(
        base,
        attempts=wishes.get("attempts", base.attempts),
        delay=wishes.get("delay", base.delay),
        cores=wishes.get("cores", base.cores),
    )


def substitute_settings(options: SessionOptions, config: Config) -> dict[str, str]:
    """Merge the settings of substitute programs: the owner's, and over them the client's."""
    discover = {"discover": "true"} if config.discover else {}
    return {TRUSTED_URLS: config.substitute_urls, **discover, **options.settings}


def substitute_sources(options: SessionOptions, config: Config) -> Sources | None:
    """Return where substitutes may come from; None if they are turned off."""
    if config.no_substitutes or not options.use_substitutes:
        return None
    return Sources.of(substitute_settings(options, config))
