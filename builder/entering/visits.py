# SPDX-License-Identifier: GPL-3.0-or-later
"""Shells in the places of builders: in the same container, on a copy of a kept directory.

All that a builder has, a shell has as well: inputs that are kept and locked, a build user of
its own, its namespaces, environment and network; but for its outputs, which nobody registers.
It needs no slot. What it leaves of the copy takes the place of the kept directory; when its
client has gone, it and all in its container is dead before that.

Entry point: `Visits`.
"""

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import trio

from builder.builtins import Manner
from builder.container import Container
from builder.directories import make_entered
from builder.entering.found import Found, copy_kept, find_kept
from builder.entering.shells import find_shell, shell_command
from builder.entering.streams import Streams, open_streams
from builder.entering.visit import Departure, Talk, Visit, Wish
from builder.events import BuildStarted
from builder.inputs import direct_inputs
from builder.network import Network
from builder.options import BuildMode, Client
from builder.preparing import Preparer
from builder.scheduling.audience import EventQueue
from builder.scheduling.jobs import Job, JobKey, JobState, JobView, view
from builder.spawner.client import SpawnError
from builder.uplink import connected, gated
from builder.users import BuildUser
from builder.workshop import Workshop
from reaper.process import ExitStatus, Process
from store.errors import StoreError
from store.paths import StorePath, name_of
from store.temproots import SessionRoots


class Visits:
    """Lets clients enter the containers of builds.

    Args:
        workshop: What all builds share.
        preparer: Prepares what builders need.
    """

    def __init__(self, workshop: Workshop, preparer: Preparer) -> None:
        self._shop = workshop
        self._preparer = preparer
        self._visits: set[Visit] = set()
        self._numbers = itertools.count(1)

    def snapshot(self) -> list[JobView]:
        """Return a look at each visit, as `ps` shows it."""
        now = trio.current_time()
        ordered = sorted(self._visits, key=lambda visit: visit.job.since)
        return [
            replace(view(visit.job, now), mode="enter", shell=visit.number) for visit in ordered
        ]

    def get(self, number: int) -> Visit | None:
        """Return the visit of a number, as `snapshot` tells it."""
        return next((each for each in self._visits if each.number == number), None)

    def of_request(self, session: int, request: int) -> Visit | None:
        """Return what a request of a session runs, if it runs a shell."""
        known = (each for each in self._visits if each.wish.request == request)
        return next((each for each in known if each.client.session == session), None)

    @contextmanager
    def visiting(self, wish: Wish) -> Iterator[Visit]:
        """Have a visit, for `enter`, and let others see it.

        Raises:
            StoreError: Too many are going on (reason ``too-many``), or this is none that
                can be entered (``not-supported``).
        """
        self._refuse_too_many(wish.client)
        if not self._shop.database.is_valid(wish.drv):
            raise StoreError(f"path `{wish.drv}' is not valid", reason="not-valid")
        key = JobKey(wish.drv, BuildMode.NORMAL)
        derivation = self._shop.derivations.get(wish.drv)
        job = Job(key, wish.options, trio.current_time(), derivation=derivation)
        self._refuse_unsuitable(job)
        visit = Visit(next(self._numbers), wish, wish.client, job)
        job.follow(visit)
        self._visits.add(visit)
        try:
            yield visit
        finally:
            self._visits.remove(visit)

    def _refuse_too_many(self, client: Client) -> None:
        most, running = self._shop.settings.max_shells, len(self._visits)
        if running >= most:
            raise StoreError(
                f"{running} shells are running; `max-shells' allows {most}", reason="too-many"
            )
        share = (most + 1) // 2
        own = sum(visit.client.uid == client.uid for visit in self._visits)
        if own >= share and not client.trusted:
            raise StoreError(
                f"{own} of your shells are running; one user may have half of the {most} that "
                "`max-shells' allows",
                reason="too-many",
            )

    def _refuse_unsuitable(self, job: Job) -> None:
        circumstances = self._preparer.circumstances
        if circumstances.manner(job) is not Manner.BUILDER:
            raise StoreError(
                f"`{job.path}' is built by the daemon itself: there is no builder whose place "
                "a shell could take",
                reason="not-supported",
            )
        if not circumstances.is_isolated(job):
            raise StoreError(
                "a shell needs a container: run the daemon without `--disable-chroot'",
                reason="not-supported",
            )

    async def enter(self, visit: Visit, roots: SessionRoots, talk: Talk) -> Departure:
        """Run a shell to its end.

        Args:
            visit: From `visiting`.
            roots: Keeps what is in the container; to be closed afterwards.
            talk: To the client.

        Raises:
            StoreError: It cannot be run, was idle for too long (reason ``timed-out``), or was
                ended (``cancelled``).
        """
        try:
            with visit.job.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_forward, visit.queue, talk)
                    departure = await self._enter(visit, roots, talk)
                    visit.queue.close()
                return departure
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        raise StoreError("the shell was ended", reason="cancelled")

    async def _enter(self, visit: Visit, roots: SessionRoots, talk: Talk) -> Departure:
        job, derivations = visit.job, self._shop.derivations
        direct = direct_inputs(job.derivation, derivations.get)
        await roots.add(job.path, *direct)
        for path in sorted(direct):
            if not self._shop.database.is_valid(path):
                raise StoreError(
                    f"`{path}' is not there, with which `{job.path}' is built; "
                    "build it, or that, first",
                    reason="not-valid",
                )
        inputs = await self._preparer.inputs(job)
        async with self._found(visit.wish) as kept:
            with self._preparer.locked(inputs):
                async with self._preparer.user(job) as user:
                    job.proceed(JobState.PREPARING)
                    return await self._visit(visit, kept, inputs, direct, user, talk)

    @asynccontextmanager
    async def _found(self, wish: Wish) -> AsyncIterator[Found | None]:
        if wish.fresh:
            yield None
            return
        index = self._shop.layout.index_file
        kept = await trio.to_thread.run_sync(find_kept, index, wish.drv, wish.client)
        try:
            yield kept
        finally:
            os.close(kept.fd)

    async def _visit(
        self,
        visit: Visit,
        kept: Found | None,
        inputs: frozenset[StorePath],
        direct: frozenset[StorePath],
        user: BuildUser | None,
        talk: Talk,
    ) -> Departure:
        job, settings = visit.job, self._shop.settings
        directories = make_entered(settings.build_directory, name_of(job.path), user)
        path = kept.build.path if kept else ""
        try:
            if kept is None:
                await self._preparer.write_graphs(job, directories)
            else:
                await trio.to_thread.run_sync(copy_kept, kept, directories, user)
            container, network = await self._preparer.furnish(job, directories, inputs, user)
            container = await self._with_shell(container, visit, inputs, direct)
            try:
                status = await self._run(visit, container, network, path, talk)
            finally:
                if kept is not None and job.started is not None:
                    with trio.CancelScope(shield=True):
                        path = await self._shop.keeper.keep_entered(
                            job, kept.build, kept.fd, directories
                        )
            return Departure(status, path)
        finally:
            if path != directories.top:
                self._shop.cleaner.discard([directories.top])

    async def _with_shell(
        self,
        container: Container,
        visit: Visit,
        inputs: frozenset[StorePath],
        direct: frozenset[StorePath],
    ) -> Container:
        wish, builder = visit.wish, visit.job.derivation.builder
        places = self._shop.host.chroot_directories
        shell = await trio.to_thread.run_sync(find_shell, builder, direct, inputs, places)
        if not shell and not (wish.words and wish.words[0].startswith("/")):
            raise StoreError(
                f"no shell is among the inputs of `{wish.drv}'; name a command by its whole path",
                reason="not-supported",
            )
        try:
            command = shell_command(container.command, shell, wish.words, wish.term)
        except ValueError as error:
            raise StoreError(f"that command cannot be run: {error}") from error
        return replace(container, command=command, terminal=wish.terminal)

    async def _run(
        self, visit: Visit, container: Container, network: Network, kept: str, talk: Talk
    ) -> ExitStatus:
        """Run a shell; nothing of its container is left when this returns or raises."""
        spawner, store = self._shop.spawner, self._shop.layout.store
        with (
            open_streams(visit.wish.terminal) as streams,
            gated(container, network, store) as gate,
        ):
            assert streams.inner is not None, "they were just opened"
            stdin, stdout = streams.inner
            try:
                spawned = await spawner.spawn(
                    container,
                    stdout_fd=stdout,
                    stdin_fd=stdin,
                    more_fd=gate.inner if gate else None,
                )
            except SpawnError as error:
                raise StoreError(error.message, reason="cannot-enter") from error
            streams.let_go()
            process = spawned.process
            with self._shop.meters.measured(process.pid, limited=True):
                try:
                    async with connected(gate, spawner, spawned, visit.job.path):
                        await spawned.setup
                        streams.arrive()
                        visit.streams = streams
                        _note_start(visit.job, process.pid)
                        return await self._converse(visit, streams, process, kept, talk)
                except SpawnError as error:
                    raise StoreError(error.message, reason="cannot-enter") from error
                finally:
                    visit.streams = None
                    spawned.setup.close()
                    process.kill()
                    with trio.CancelScope(shield=True):
                        await process.wait()

    async def _converse(
        self, visit: Visit, streams: Streams, process: Process, kept: str, talk: Talk
    ) -> ExitStatus:
        """Carry bytes both ways until the shell has ended."""
        seconds = self._shop.settings.shell_idle or float("inf")

        def heard() -> None:
            visit.idle.deadline = trio.current_time() + seconds

        async def pass_input() -> None:
            while pieces := await talk.typed():
                heard()
                for piece in pieces:
                    if not await streams.write(piece):
                        return
            await streams.end_input()

        heard()
        try:
            with visit.idle:
                async with trio.open_nursery() as nursery:
                    await talk.begin(process.pid, kept)
                    nursery.start_soon(pass_input)
                    while data := await streams.read():
                        heard()
                        await talk.show(data)
                    status = await process.wait()
                    nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        if visit.idle.cancelled_caught:
            raise StoreError(
                f"nothing was typed or printed for {seconds} seconds", reason="timed-out"
            )
        return status


async def _forward(queue: EventQueue, talk: Talk) -> None:
    async for event in queue:
        await talk.tell(event)


def _note_start(job: Job, pid: int) -> None:
    job.started = BuildStarted(job.path, job.derivation.system, "", pid)
    job.proceed(JobState.ENTERED)
