# SPDX-License-Identifier: GPL-3.0-or-later
"""What a builder needs before it is run: its inputs, its user, and the container around it.

A shell in the place of a builder needs the same. Entry point: `Preparer`.
"""

from collections.abc import AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)

import trio

from builder.circumstances import Circumstances
from builder.container import Container
from builder.directories import BuildDirectories, write_files
from builder.errors import BuildError
from builder.events import FailureKind
from builder.inputs import closure_of, direct_inputs
from builder.jobserver.pool import Jobserver
from builder.network import Network
from builder.outputs.shelves import shelves_for
from builder.plan import BuildPlan, container_for
from builder.references_graph import graph_requests, graph_text
from builder.scheduling.jobs import Job, JobState
from builder.users import BuildUser
from builder.workshop import Workshop
from store.paths import StorePath, is_derivation

MANY_INPUTS = 2000
"""Inputs from which a container is described in a thread: it takes some 2 µs an input."""


class Preparer:
    """Prepares what single builders need.

    Attributes:
        circumstances: Decides how and where they run.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self.circumstances = Circumstances(
            workshop.settings,
            workshop.builtins,
            workshop.host.environment,
            workshop.database,
            workshop.layout.store,
        )

    async def inputs(self, job: Job) -> frozenset[StorePath]:
        """Return the items that a builder may see."""
        direct = direct_inputs(job.derivation, self._shop.derivations.get)
        return await closure_of(self._shop.database, direct)

    def locked(self, inputs: frozenset[StorePath]) -> AbstractContextManager[None]:
        """Have what a builder sees locked, where locks are kept."""
        locks = self._shop.input_locks
        return nullcontext() if locks is None else locks.held(inputs)

    def user(self, job: Job) -> AbstractAsyncContextManager[BuildUser | None]:
        """Lend a user to run a builder as; None for the daemon's own."""

        def waiting(busy: int) -> None:
            count = "1 build is" if busy == 1 else f"{busy} builds are"
            reason = f"{count} running, as all users that there are"
            job.wait(JobState.WAITING_FOR_USER, "build user", reason)

        users = self._shop.users
        return nullcontext() if users is None else users.borrow(waiting)

    def job_tokens(
        self, job: Job, directories: BuildDirectories, inputs: frozenset[StorePath]
    ) -> AbstractAsyncContextManager[str]:
        """Have a fifo with job tokens, and give its name; empty where the build has none."""
        server = self._shop.jobserver
        if server is None or not self.circumstances.shares_tokens(job, inputs):
            return nullcontext("")
        return self._served(server, job, f"{directories.top}/jobserver")

    @asynccontextmanager
    async def _served(self, server: Jobserver, job: Job, path: str) -> AsyncIterator[str]:
        def waiting(builds: int) -> None:
            reason = f"the builds that are running have them all, {builds} of them"
            job.wait(JobState.WAITING_FOR_RESOURCES, "job token", reason)

        async with server.serve(path, waiting):
            job.proceed(JobState.PREPARING)
            yield path

    async def write_graphs(self, job: Job, directories: BuildDirectories) -> None:
        """Write the graphs of references that the derivation wants into its build directory."""
        attribute = job.derivation.env.get("exportReferencesGraph", "")
        requests = graph_requests(attribute, self._shop.directory)
        if requests:
            graphs = {name: await self._graph(path) for name, path in requests}
            write_files(directories.workplace.build, graphs)

    async def _graph(self, path: StorePath) -> str:
        database = self._shop.database
        if not database.is_valid(path):
            raise BuildError(
                f"`exportReferencesGraph' contains an invalid path `{path}'",
                FailureKind.INPUT_REJECTED,
            )
        closure = await closure_of(database, [path])
        # A closure with derivations in it stands for what they make as well.
        outputs = [
            output
            for drv in closure
            if is_derivation(drv)
            for output in self._shop.derivations.get(drv).output_paths
        ]
        whole = await closure_of(database, [*closure, *outputs])
        return graph_text(map(database.path_info, whole))

    async def furnish(
        self,
        job: Job,
        directories: BuildDirectories,
        inputs: frozenset[StorePath],
        user: BuildUser | None,
        jobserver: str = "",
    ) -> tuple[Container, Network]:
        """Describe the container that a builder runs in, and the network that is brought to it.

        Args:
            job: What is built.
            directories: Where.
            inputs: The items that the builder may see.
            user: As whom it runs.
            jobserver: The fifo that `job_tokens` gave.

        Raises:
            BuildError: The derivation cannot be run as it says.
        """
        seen = inputs | await self.circumstances.tools(job)
        plan = self._plan(job, directories, seen, user, jobserver)
        container = await self._container(plan)
        if plan.shelves is not None:
            await self._shop.content_index.flush()
        return container, plan.network

    def _plan(
        self,
        job: Job,
        directories: BuildDirectories,
        inputs: frozenset[StorePath],
        user: BuildUser | None,
        jobserver: str,
    ) -> BuildPlan:
        manner = self.circumstances.manner(job)
        return BuildPlan(
            derivation=job.derivation,
            workplace=directories.workplace,
            store=self._shop.layout.store,
            inputs=inputs,
            user=user,
            isolated=self.circumstances.is_isolated(job),
            cores=job.options.cores,
            network=self.circumstances.network(job),
            drv=job.path,
            manner=manner,
            builtins=self._shop.builtins,
            traces=job.options.download_traces,
            shelves=shelves_for(self._shop.layout, job.derivation, manner),
            jobserver=jobserver,
        )

    async def _container(self, plan: BuildPlan) -> Container:
        try:
            if len(plan.inputs) < MANY_INPUTS:
                return container_for(plan, self._shop.host)
            return await trio.to_thread.run_sync(container_for, plan, self._shop.host)
        except ValueError as error:
            # A derivation can hold texts that no process can be given, such as a NUL.
            raise BuildError(
                f"cannot run the builder as the derivation says: {error}",
                FailureKind.INPUT_REJECTED,
            ) from error
