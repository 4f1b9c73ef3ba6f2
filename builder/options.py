# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client may ask of its builds, and what the daemon is configured to do."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from builder.admission.obstacles import ANY_MACHINE, AdmissionSettings
from builder.network import NetworkMode
from builder.retries.policy import NO_RETRIES, RetrySettings
from builder.substitution.offers import Sources


class BuildMode(IntEnum):
    """The numbers are those of BuildPaths in the worker protocol."""

    NORMAL = 0
    REPAIR = 1
    CHECK = 2


class LogCompression(StrEnum):
    """How build logs are stored; clients look for ``.gz``, ``.bz2``, then the plain file."""

    GZIP = "gzip"
    BZIP2 = "bzip2"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of one request, already checked against what this client may set.

    Times are in seconds; 0 means no limit. `offload` allows other machines to build,
    and `print_build_trace` asks those for trace lines; with `download_traces`, downloads
    tell of their progress in such lines. `sources` is where substitutes
    may come from, None for no substitutes, and `fallback` is whether to build what could
    not be downloaded. Where the last three are None, the daemon's settings hold.
    """

    mode: BuildMode = BuildMode.NORMAL
    keep_failed: bool = False
    keep_going: bool = False
    cores: int = 0
    max_jobs: int | None = None
    timeout: int = 0
    max_silent_time: int = 0
    rounds: int = 1
    offload: bool = True
    print_build_trace: bool = False
    download_traces: bool = False
    sources: Sources | None = None
    fallback: bool = False
    keep_log: bool | None = None
    max_log_size: int | None = None
    cache_failures: bool | None = None
    retries: RetrySettings = NO_RETRIES


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. `uid` and `gid` are None where the peer is not known, as over TCP.

    `detached` is true where nobody is connected: a build that goes on by itself.
    `weight` is what the user counts when slots are shared.
    """

    session: int
    pid: int | None
    uid: int | None
    gid: int | None
    user: str
    trusted: bool
    detached: bool = False
    weight: int = 1


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How this daemon builds, whoever asks.

    Attributes:
        system: The system whose builders run here, such as ``x86_64-linux``.
        max_jobs: Builds that run at once.
        cores: What ``NIX_BUILD_CORES`` says unless the client says otherwise; 0
            lets the builder use all.
        use_chroot: Whether builders run in a container.
        chroot_directories: ``TARGET=SOURCE`` or plain paths of the host that
            builders see too, read-only.
        build_users_group: The group whose members builders run as; empty for none.
        log_compression: How logs are stored.
        keep_log: Whether logs are stored at all.
        max_log_size: Bytes of output after which a build is ended; 0 for no limit.
        cache_failures: Whether a permanent failure is remembered.
        build_directory: The parent of build directories.
        impersonate_linux_26: Whether 64-bit builders see a kernel 2.6.
        deduplicate: Whether equal files of the store share one inode.
        fixed_output_network: What network fixed outputs get.
        host_loopback: Whether they get to services on the host's loopback interface.
        slirp4netns: The program of that name, looked for on PATH unless it is a file name.
        content_mirrors: Templates of URLs by which the daemon's downloader finds content.
        max_download_size: The most bytes that it takes of a file; 0 for no limit.
        max_build_memory: Bytes that a builder may have unless it is alone; 0 for any number.
        admission: What the machine must be like for one more build to start.
        job_tokens: Jobs that all builds together may run; 0 for no jobserver.
        jobserver_for_all: Whether builds take part in it that do not ask to.
        max_shells: Shells that may run in the places of builders; 0 for none.
        shell_idle: Seconds after which one is ended in which nothing was typed or printed;
            0 for never.
    """

    system: str
    max_jobs: int = 1
    cores: int = 0
    use_chroot: bool = True
    chroot_directories: tuple[str, ...] = ()
    build_users_group: str = ""
    log_compression: LogCompression = LogCompression.GZIP
    keep_log: bool = True
    max_log_size: int = 0
    cache_failures: bool = False
    build_directory: str = "/tmp"  # noqa: S108 - the directory whose name builders see
    impersonate_linux_26: bool = False
    deduplicate: bool = True
    fixed_output_network: NetworkMode = NetworkMode.AUTO
    host_loopback: bool = True
    slirp4netns: str = "slirp4netns"
    content_mirrors: tuple[str, ...] = ()
    max_download_size: int = 0
    max_build_memory: int = 0
    admission: AdmissionSettings = ANY_MACHINE
    job_tokens: int = 0
    jobserver_for_all: bool = True
    max_shells: int = 4
    shell_idle: int = 0
