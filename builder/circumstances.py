# SPDX-License-Identifier: GPL-3.0-or-later
"""How and where a job's builder runs: by whom it is served, in a container or not, its network."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.builtins import Builtins, Manner, items_of
from builder.errors import BuildError
from builder.events import FailureKind, Level, Message
from builder.inputs import closure_of
from builder.jobserver.wishes import takes_part
from builder.network import NO_NETWORK, Network, NetworkMode, Reach, choose, survey
from builder.options import BuildSettings
from builder.scheduling.jobs import Job
from store.database import StoreDatabase
from store.paths import StorePath


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Decides on the circumstances of builds.

    Attributes:
        settings: How this daemon builds.
        builtins: How the builders are served that are part of the daemon.
        environment: The daemon's.
        database: What is valid.
        store: The store directory.
    """

    settings: BuildSettings
    builtins: Builtins
    environment: Mapping[str, str]
    database: StoreDatabase
    store: str

    def refuse_unserved(self, job: Job) -> None:
        """Refuse a built-in builder that is not served here.

        Raises:
            BuildError: It is one.
        """
        derivation = job.derivation
        if self.builtins.manner(derivation, job.key.mode) is None:
            name = derivation.builder.partition(":")[2]
            raise BuildError(f"unsupported builtin function '{name}'", FailureKind.INPUT_REJECTED)
        if derivation.is_builtin and not derivation.is_fixed_output:
            raise BuildError(
                f"{job.path} is not a fixed-output derivation", FailureKind.INPUT_REJECTED
            )

    def manner(self, job: Job) -> Manner:
        """Tell by whom a job is served."""
        return self.builtins.manner(job.derivation, job.key.mode) or Manner.BUILDER

    def is_isolated(self, job: Job) -> bool:
        """Tell whether the builder is in a container, and makes its outputs beside the store."""
        return self.settings.use_chroot and self.manner(job) is not Manner.GUIX

    async def tools(self, job: Job) -> frozenset[StorePath]:
        """Give the items beside the inputs that have to be seen."""
        toolkit = self.builtins.toolkit
        if toolkit is None or self.manner(job) is not Manner.DOWNLOADER:
            return frozenset()
        return await closure_of(self.database, map(StorePath, items_of(toolkit, self.store)))

    def shares_tokens(self, job: Job, inputs: Iterable[StorePath]) -> bool:
        """Tell whether the builder is to share job tokens with others.

        Raises:
            BuildError: The derivation says what nobody understands.
        """
        if not self.is_isolated(job) or self.manner(job) is not Manner.BUILDER:
            return False
        return takes_part(job.derivation, inputs, unless_asked=self.settings.jobserver_for_all)

    def network(self, job: Job) -> Network:
        """Decide on the network of a builder, and tell clients if it is less than they expect."""
        if not (job.derivation.is_fixed_output and self.is_isolated(job)):
            return NO_NETWORK
        settings = self.settings
        mode = settings.fixed_output_network
        found = survey(settings.slirp4netns, self.environment.get("PATH"))
        network = choose(mode, found, host_loopback=settings.host_loopback)
        if not network.warning:
            return network
        if mode is NetworkMode.AUTO and self.manner(job) is Manner.DOWNLOADER:
            # It runs nobody's code, so what else is in the host's network is no danger.
            return Network(Reach.HOST, survey=found)
        job.audience.tell(Message(network.warning, Level.ERROR))
        return network
