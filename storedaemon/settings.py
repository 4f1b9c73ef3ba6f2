# SPDX-License-Identifier: GPL-3.0-or-later
"""What the configuration means to the builder, on this machine.

Apart from `storedaemon.config`, so that reading options does not wait for the builder's
modules. Entry points: `build_settings`, `retry_settings`, `weights`.
"""

import os

from builder.admission.obstacles import AdmissionSettings
from builder.network import NetworkMode
from builder.options import BuildSettings, LogCompression
from builder.retries.policy import Cause, RetrySettings
from storedaemon.config import Config

_MIB = 1024 * 1024


def build_settings(config: Config, system: str) -> BuildSettings:
    """Tell the builder how this daemon builds; `system` is this machine's."""
    return BuildSettings(
        system=config.system or system,
        max_jobs=config.max_jobs,
        cores=config.cores,
        use_chroot=not config.disable_chroot,
        chroot_directories=config.chroot_directories,
        build_users_group=config.build_users_group,
        log_compression=LogCompression(config.log_compression),
        keep_log=not config.lose_logs,
        max_log_size=config.max_log_size,
        cache_failures=config.cache_failures,
        build_directory=config.build_directory,
        impersonate_linux_26=config.impersonate_linux_26,
        deduplicate=not config.disable_deduplication,
        max_build_memory=config.max_build_memory * _MIB,
        admission=admission_settings(config),
        fixed_output_network=NetworkMode(config.fixed_output_network),
        host_loopback=not config.isolate_host_loopback,
        slirp4netns=config.slirp4netns,
        content_mirrors=config.content_addressed_mirrors,
        max_download_size=config.max_download_size,
        job_tokens=job_tokens(config),
        jobserver_for_all=config.jobserver_for == "all",
        max_shells=config.max_shells,
        shell_idle=config.shell_idle,
    )


def job_tokens(config: Config) -> int:
    """Tell how many jobs all builds together may run; 0 where nobody counts."""
    if not config.jobserver:
        return 0
    return config.jobserver_tokens or len(os.sched_getaffinity(0))


def weights(config: Config) -> dict[str, int]:
    """Tell what users and ``@GROUP`` count when slots are shared."""
    named = (text.rpartition("=") for text in config.shares)
    return {name: int(weight) for name, _, weight in named}


def admission_settings(config: Config) -> AdmissionSettings:
    """Tell what the machine must be like for one more build to start."""
    return AdmissionSettings(
        load=config.max_load,
        cpu_pressure=config.max_cpu_pressure,
        memory_pressure=config.max_memory_pressure,
        io_pressure=config.max_io_pressure,
        spare_memory=config.spare_memory * _MIB,
    )


def retry_settings(config: Config) -> RetrySettings:
    """Tell how failed builds are tried again, unless a client or a derivation says otherwise."""
    return RetrySettings(
        attempts=config.attempts,
        delay=config.retry_delay,
        causes=frozenset(map(Cause, config.retry_on)),
        cores=config.retry_cores,
        patience=config.retry_patience,
        quiet_load=config.quiet_load,
        quiet_pressure=config.quiet_pressure,
        quiet_memory=config.quiet_memory * _MIB,
    )
