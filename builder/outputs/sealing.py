# SPDX-License-Identifier: GPL-3.0-or-later
"""What a builder left, turned into store items and what is registered of them.

The store workers look at the outputs; here it is decided what they look for, and
whether the derivation allows what they found. Only then is anything put into the
store.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from builder.directories import DIRECTORY_FLAGS, BuildDirectories, opened
from builder.errors import BuildError
from builder.events import FailureKind, HashMismatch
from builder.inputs import closure_of
from builder.outputs.constraints import check_references, constraints_of, specified_paths
from builder.scheduling.jobs import Job
from store import turns
from store.database import StoreDatabase
from store.derivations import Derivation
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.layout import Layout
from store.links import open_links
from store.paths import StoreDirectory, StorePath, hash_part
from store.placing import place_path
from store.worker.client import StoreWorkers, WorkerError, seal_here
from store.worker.messages import FixedContent, OutputToSeal, SealedOutput, SealOutputs

MANY = 2000
"""Inputs from which a request is written in a thread: it takes some 0.4 µs an input."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something to copy, of which nothing is believed.

    Attributes:
        directory: A descriptor of the directory it is in.
        name: Its name there.
        limit: The bytes of the archive form of what is expected, at least.
    """

    directory: int
    name: str
    limit: int


class Sealer:
    """Seals outputs and puts them into the store.

    Args:
        layout: Where the store is.
        directory: The store's paths.
        database: Knows the references of inputs.
        workers: Do the work.
        deduplicate: Whether equal files of the store share an inode.
    """

    def __init__(
        self,
        layout: Layout,
        directory: StoreDirectory,
        database: StoreDatabase,
        workers: StoreWorkers,
        *,
        deduplicate: bool,
    ) -> None:
        self._layout = layout
        self._directory = directory
        self._database = database
        self._workers = workers
        self._deduplicate = deduplicate

    async def seal(
        self,
        job: Job,
        left: BuildDirectories,
        inputs: frozenset[StorePath],
        outputs: Sequence[StorePath],
    ) -> list[PathInfo]:
        """Seal outputs; they are then ready to be placed.

        Args:
            job: What was built.
            left: What the builder left.
            inputs: All that the builder could see, which its outputs may refer to.
            outputs: Those to seal.

        Returns:
            What to register of each.

        Raises:
            BuildError: An output is missing, or not acceptable.
        """
        prepare = partial(self._request, job, left, inputs, outputs)
        request, possible = await turns.run(prepare, much=len(inputs) > MANY)
        try:
            sealed = await self._have_sealed(request, left.workplace.store, left.private)
        except WorkerError as error:
            if error.actual is not None:
                job.audience.tell(_mismatch(job.derivation, error.actual))
            raise BuildError(error.message, FailureKind.OUTPUT_REJECTED) from error
        infos = [
            _info(job.path, path, each, possible)
            for path, each in zip(outputs, sealed, strict=True)
        ]
        await self._check_constraints(job.derivation, infos)
        return infos

    async def keep_failed(self, job: Job, left: BuildDirectories, output: StorePath) -> None:
        """Put what a failed builder made of an output in its place, made harmless, unregistered.

        Raises:
            WorkerError: It is nothing that may lie in a store.
        """
        copy = job.derivation.is_fixed_output
        kept = OutputToSeal(_base(output), output, left.owner, None, copy)
        request = SealOutputs(job.path, (kept,), "")
        await self._have_sealed(request, left.workplace.store, left.private)
        self.place(job, left, [output])

    def place(self, job: Job, left: BuildDirectories, outputs: Iterable[StorePath]) -> None:
        """Put sealed outputs into the store, in place of what has their names."""
        source = self._sealed_in(job, left)
        if source == self._layout.store:
            return
        for path in outputs:
            place_path(f"{source}/{_base(path)}", path)

    def sealed_path(self, job: Job, left: BuildDirectories, output: StorePath) -> str:
        """Return where a sealed output lies until it is placed."""
        return f"{self._sealed_in(job, left)}/{_base(output)}"

    async def seal_download(
        self, path: StorePath, directory: str, announced: Digest
    ) -> SealedOutput:
        """Seal an item that lies in a private directory, under its own name.

        Args:
            path: The item.
            directory: Where it lies; on the store's file system, and ours alone.
            announced: The hash of its NAR form that it must have.

        Raises:
            StoreError: It is not there, or not acceptable; `actual` is its hash where
                that is what is wrong.
        """
        name = _base(path)
        if not _exists(f"{directory}/{name}"):
            raise StoreError(f"substitute did not produce path `{path}'")
        fixed = FixedContent(announced.algorithm, recursive=True, digest=announced.value)
        output = OutputToSeal(name, path, owner=None, fixed=fixed, copy=False)
        request = SealOutputs(derivation=path, outputs=(output,), candidates="")
        [sealed] = await self._have_sealed(request, directory, directory)
        return sealed

    async def seal_copy(
        self,
        drv: StorePath,
        derivation: Derivation,
        inputs: Iterable[StorePath],
        directory: str,
        source: Source,
    ) -> PathInfo:
        """Seal a copy of something as the output of a fixed derivation, which is not built.

        Args:
            drv: The derivation.
            derivation: What it says.
            inputs: What its output may refer to.
            directory: Where the copy is made, under the output's name; on the store's
                file system, and ours alone.
            source: What to copy.

        Raises:
            StoreError: It is not what the derivation states, or not acceptable.
        """
        [path] = derivation.output_paths
        possible = {hash_part(each): each for each in (*inputs, path)}
        output = OutputToSeal(
            _base(path), path, None, _fixed_content(derivation), True, source.name, source.limit
        )
        request = SealOutputs(derivation=drv, outputs=(output,), candidates=" ".join(possible))
        [sealed] = await self._have_sealed(request, source.directory, directory)
        info = _info(drv, path, sealed, possible)
        for reference in sorted(info.references - {path}):
            if not self._database.is_valid(reference):
                raise StoreError(f"it refers to `{reference}', which is not valid")
        await self._check_constraints(derivation, [info])
        return info

    def place_download(self, path: StorePath, directory: str) -> None:
        """Put a sealed item into the store, in place of what has its name."""
        place_path(f"{directory}/{_base(path)}", path)

    def _sealed_in(self, job: Job, left: BuildDirectories) -> str:
        return left.private if job.derivation.is_fixed_output else left.workplace.store

    async def is_intact(self, info: PathInfo) -> bool:
        """Tell whether a valid item still has the content that was registered."""
        with opened(self._layout.store) as store:
            try:
                digest, size = await self._workers.hash_path(store, _base(info.path))
            except WorkerError:
                return False
        return (digest, size) == (info.nar_hash, info.nar_size)

    def _request(
        self,
        job: Job,
        left: BuildDirectories,
        inputs: frozenset[StorePath],
        outputs: Sequence[StorePath],
    ) -> tuple[SealOutputs, dict[str, StorePath]]:
        """Return what to ask for, and the items that may be referred to by their hash parts."""
        possible = {hash_part(path): path for path in (*inputs, *job.derivation.output_paths)}
        fixed = _fixed_content(job.derivation)
        # The builder of a fixed output may have had a network to pass a descriptor through.
        copy = fixed is not None
        chosen = tuple(OutputToSeal(_base(path), path, left.owner, fixed, copy) for path in outputs)
        return SealOutputs(job.path, chosen, " ".join(possible)), possible

    async def _have_sealed(
        self, request: SealOutputs, outputs: str | int, private: str
    ) -> tuple[SealedOutput, ...]:
        left = outputs if isinstance(outputs, int) else os.open(outputs, DIRECTORY_FLAGS)
        try:
            # Outside a container, some process of the builder may have got away.
            at_rest = outputs != self._layout.store
            if at_rest and (sealed := seal_here(request, left)) is not None:
                return sealed
            return await self._sealed_by_worker(request, left, private)
        finally:
            if isinstance(outputs, str):
                os.close(left)

    async def _sealed_by_worker(
        self, request: SealOutputs, outputs_fd: int, private: str
    ) -> tuple[SealedOutput, ...]:
        with ExitStack() as stack:
            store = stack.enter_context(opened(self._layout.store))
            links = open_links(store) if self._deduplicate else None
            if links is not None:
                stack.callback(os.close, links)
            private_fd = stack.enter_context(opened(private))
            return await self._workers.seal_outputs(
                request, outputs_fd=outputs_fd, private_fd=private_fd, links_fd=links
            )

    async def _check_constraints(self, derivation: Derivation, infos: Sequence[PathInfo]) -> None:
        for constraint in constraints_of(derivation):
            specified = specified_paths(derivation, constraint.attribute, self._directory)
            for info in infos:
                used = info.references
                if constraint.of_closure:
                    used = await self._requisites(info, infos)
                check_references(info.path, constraint, specified, used)

    async def _requisites(
        self, info: PathInfo, siblings: Sequence[PathInfo]
    ) -> frozenset[StorePath]:
        """Return the closure of an item's references, some of which are not registered yet."""
        fresh = {each.path: each.references for each in siblings}
        reached: set[StorePath] = set()
        queue = [info.path]
        while queue:
            new = fresh.pop(queue.pop(), frozenset()) - reached
            reached |= new
            queue.extend(new)
        known = [path for path in reached if self._database.is_valid(path)]
        return frozenset(reached).union(await closure_of(self._database, known)) - {info.path}


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _base(path: StorePath) -> str:
    return path.rpartition("/")[2]


def _fixed_content(derivation: Derivation) -> FixedContent | None:
    if not derivation.is_fixed_output:
        return None
    recursive, digest = derivation.outputs["out"].fixed_content()
    return FixedContent(digest.algorithm, recursive, digest.value)


def _info(
    drv: StorePath, path: StorePath, sealed: SealedOutput, possible: dict[str, StorePath]
) -> PathInfo:
    return PathInfo(
        path=path,
        nar_hash=Digest(HashAlgorithm.SHA256, sealed.nar_hash),
        nar_size=sealed.nar_size,
        references=frozenset(possible[each] for each in sealed.references),
        deriver=drv,
    )


def _mismatch(derivation: Derivation, actual: Digest) -> HashMismatch:
    output = derivation.outputs["out"]
    _, expected = output.fixed_content()
    return HashMismatch(
        path=StorePath(output.path),
        algorithm=output.hash_algorithm,
        expected=_shown(expected),
        actual=_shown(actual),
    )


def _shown(digest: Digest) -> str:
    # As the C++ daemon shows hashes: MD5, which is oldest, in base 16, all others in base 32.
    return digest.base16 if digest.algorithm is HashAlgorithm.MD5 else digest.base32
