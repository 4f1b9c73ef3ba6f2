# SPDX-License-Identifier: GPL-3.0-or-later
"""From a derivation to the description of the container that builds it. Pure.

What a builder sees is what the C++ daemon shows it: recipes rely on each of
these names. Of the store it sees its inputs, read-only, in a directory of its
own that also takes its outputs.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from builder.builtins import (
    Builtins,
    Manner,
    downloader_command,
    downloader_operations,
    guix_command,
    request_for,
)
from builder.container import (
    ALL_NAMESPACES,
    GUEST_GID,
    GUEST_UID,
    Bind,
    Command,
    Container,
    Devices,
    Directory,
    File,
    GuestIdentity,
    HostIdentity,
    Identity,
    Namespace,
    Operation,
    Proc,
    PseudoTerminals,
    SameIdentity,
    SharedMemory,
    StoreView,
    arrange,
)
from builder.environment import builder_environment, octets, variables
from builder.jobserver.wishes import FIFO, MAKEFLAGS
from builder.network import HOSTS, NO_NETWORK, Network, Reach, files
from builder.outputs.shelves import Shelves
from builder.platforms import Machine
from builder.users import BuildUser
from store.derivations import Derivation
from store.paths import StorePath

_WITHOUT_NETWORK = tuple(each for each in ALL_NAMESPACES if each is not Namespace.NETWORK)
_ETC, _HOSTS = Directory("/etc"), File("/etc/hosts", HOSTS, 0o644)
_PROC, _SHARED_MEMORY, _PSEUDO_TERMINALS = Proc(), SharedMemory(), PseudoTerminals()


@dataclass(frozen=True, slots=True)
class View:
    """The directories of a view of the store, on the host; see `builder.operations.StoreView`."""

    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class Workplace:
    """The directories of one build, on the host.

    Attributes:
        build: The build directory.
        seen_as: The build directory as the builder sees it.
        temporary: What the builder sees as /tmp; None outside a container.
        store: The directory that takes the outputs: the store itself outside a container.
        view: Where the inputs are shown as one view; None where each is mounted.
    """

    build: str
    seen_as: str
    temporary: str | None
    store: str
    view: View | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """What matters of the machine, the same for all builds.

    Attributes:
        machine: What it can run.
        devices: What builders have in ``/dev``.
        environment: The daemon's environment, for `impureEnvVars`.
        chroot_directories: ``TARGET=SOURCE`` or plain paths that all builders see too.
        impersonate_linux_26: Whether builders see a kernel 2.6.
    """

    machine: Machine
    environment: Mapping[str, str]
    devices: Devices = field(default_factory=Devices)
    chroot_directories: tuple[str, ...] = ()
    impersonate_linux_26: bool = False


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """All that decides about a container, beside the host.

    Attributes:
        derivation: What is built.
        workplace: Where.
        store: The store directory.
        inputs: The items it may see: the closure of its inputs.
        user: As whom; None for the daemon's own user, in a user namespace.
        isolated: Whether in a container.
        cores: How many processors it is told to use; 0 for all.
        network: What network it gets, in a container.
        drv: The derivation's file.
        manner: How it is built.
        builtins: How those of the daemon are.
        traces: Whether downloads tell of their progress in Guix's lines.
        shelves: Where a builder that makes a fixed output may look content up.
        jobserver: The fifo that holds its job tokens, on the host; empty for none.
    """

    derivation: Derivation
    workplace: Workplace
    store: str
    inputs: Collection[StorePath]
    user: BuildUser | None
    isolated: bool
    cores: int
    network: Network = NO_NETWORK
    drv: str = ""
    manner: Manner = Manner.BUILDER
    builtins: Builtins = field(default_factory=Builtins)
    traces: bool = False
    shelves: Shelves | None = None
    jobserver: str = ""


def container_for(plan: BuildPlan, host: Host) -> Container:
    """Return the description of the container for a build."""
    return Container(
        command=_command(plan, host),
        identity=_identity(plan),
        operations=arrange(_operations(plan, host)) if plan.isolated else (),
        namespaces=_namespaces(plan),
        loopback=not plan.network.host_loopback,
        awaits_network=plan.isolated and plan.network.reach is Reach.UPLINK,
        personality=host.machine.personality(
            plan.derivation.system, impersonate_linux_26=host.impersonate_linux_26
        ),
    )


def _namespaces(plan: BuildPlan) -> tuple[Namespace, ...]:
    if not plan.isolated:
        return ()
    return _WITHOUT_NETWORK if plan.network.reach is Reach.HOST else ALL_NAMESPACES


def _environment(plan: BuildPlan, host: Host) -> dict[str, str]:
    return builder_environment(
        plan.derivation,
        store=plan.store,
        cores=plan.cores,
        build_directory=plan.workplace.seen_as,
        daemon_environment=host.environment,
        makeflags=MAKEFLAGS if plan.jobserver else None,
    )


def _command(plan: BuildPlan, host: Host) -> Command:
    derivation = plan.derivation
    if plan.manner is Manner.GUIX:
        return guix_command(
            plan.builtins.guix,
            plan.drv,
            derivation,
            host.environment,
            store=plan.store,
            directory=plan.workplace.seen_as,
            traces=plan.traces,
        )
    if plan.manner is Manner.DOWNLOADER:
        assert plan.builtins.toolkit is not None, "what is served can be served"
        return downloader_command(plan.builtins.toolkit, plan.workplace.seen_as)
    name = derivation.builder.rpartition("/")[2]
    return Command(
        program=octets(derivation.builder),
        arguments=tuple(map(octets, (name, *derivation.args))),
        environment=variables(_environment(plan, host)),
        directory=plan.workplace.seen_as,
        beneath=plan.store,
    )


def _identity(plan: BuildPlan) -> Identity:
    if plan.user is not None:
        return HostIdentity(plan.user.uid, plan.user.gid, plan.user.groups)
    return GuestIdentity() if plan.isolated else SameIdentity()


def _operations(plan: BuildPlan, host: Host) -> list[Operation]:
    workplace = plan.workplace
    assert workplace.temporary is not None, "a container has a /tmp of its own"
    operations = [
        *_files(plan),
        *_more_of_host(plan, host),
        *_inside_mounts(host),
        Bind(workplace.temporary, "/tmp", read_only=False),  # noqa: S108 - a private one
        Bind(workplace.build, workplace.seen_as, read_only=False),
        *_store(plan),
    ]
    if plan.jobserver:
        operations.append(Bind(plan.jobserver, FIFO))
    if plan.shelves is not None:
        operations += plan.shelves.operations(has_user=plan.user is not None)
    return operations


def _store(plan: BuildPlan) -> list[Operation]:
    workplace = plan.workplace
    # A valid output that is made again must not lie in the way of the new one.
    inputs = frozenset(plan.inputs).difference(plan.derivation.output_paths)
    if workplace.view is not None:
        return [_view(plan.store, inputs, workplace.view)]
    made = Bind(workplace.store, plan.store, read_only=False)
    return [made, *[Bind(path, path) for path in sorted(inputs)]]


def _view(store: str, inputs: Iterable[StorePath], view: View) -> StoreView:
    names = "\n".join(inputs).replace(f"{store}/", "")
    return StoreView(store, store, names, view.upper, view.work)


def _inside_mounts(host: Host) -> tuple[Operation, ...]:
    if any(_target_of(text) == "/dev" for text in host.chroot_directories):
        return (_PROC,)
    return _PROC, host.devices, _SHARED_MEMORY, _PSEUDO_TERMINALS


def _files(plan: BuildPlan) -> list[Operation]:
    uid = plan.user.uid if plan.user else GUEST_UID
    gid = plan.user.gid if plan.user else GUEST_GID
    return [
        _ETC,
        File("/etc/passwd", _passwd(uid, gid), 0o644),
        File("/etc/group", f"nixbld:!:{gid}:\n".encode(), 0o644),
        *(files(plan.network) if plan.derivation.is_fixed_output else (_HOSTS,)),
    ]


def _passwd(uid: int, gid: int) -> bytes:
    # Samba, in the tests of some packages, wants there to be a user "nobody".
    return (
        f"nixbld:x:{uid}:{gid}:Nix build user:/:/noshell\nnobody:x:65534:65534:Nobody:/:/noshell\n"
    ).encode()


def _more_of_host(plan: BuildPlan, host: Host) -> Iterable[Operation]:
    if plan.manner is not Manner.DOWNLOADER:
        return map(_chroot_directory, host.chroot_directories)
    assert plan.builtins.toolkit is not None, "what is served can be served"
    environment = _environment(plan, host)
    request = request_for(plan.builtins, plan.drv, plan.derivation, environment, traces=plan.traces)
    return downloader_operations(plan.builtins.toolkit, request)


def _target_of(text: str) -> str:
    return text.partition("=")[0]


def _chroot_directory(text: str) -> Bind:
    target, _, source = text.partition("=")
    devices = any(_is_below(path, "/dev") for path in (target, source))
    return Bind(source or target, target, devices=devices)


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
