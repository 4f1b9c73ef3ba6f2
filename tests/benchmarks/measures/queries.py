# SPDX-License-Identifier: GPL-3.0-or-later
"""Small requests, against round trips between two processes that do nothing else."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from tests.benchmarks import driver, floors
from tests.benchmarks.driver import Line
from tests.benchmarks.figures import Against, Figure, Goal, Unit
from tests.benchmarks.lab import Lab, Side
from tests.benchmarks.pinning import pinned
from tests.benchmarks.rounds import Contestant, timed

CLIENTS = 16

EQUAL = Goal(1.0, Against.PEER)


def is_valid_path(lab: Lab) -> Iterator[Figure]:
    """Ask whether an item is valid, with client and daemon on one CPU, and on two."""
    one, two = lab.cpus[0], lab.cpus[-1]
    yield _single(lab, "is-valid-path, one CPU", _is_valid, one, (Goal(2.0),))
    yield _single(lab, "is-valid-path, two CPUs", _is_valid, two, (EQUAL,))


def path_info(lab: Lab) -> Iterator[Figure]:
    """Ask what is known of an item, first from one client, then from many at once."""
    yield _single(lab, "path-info, one CPU", _path_info, lab.cpus[0], ())
    yield _many(lab)


def valid_build(lab: Lab) -> Iterator[Figure]:
    """Ask for a build that has been done."""
    yield _single(lab, "build that is valid already", _valid_build, lab.cpus[0], (EQUAL,))


def _is_valid(side: Side) -> tuple[bytes, bytes]:
    request, reply = driver.path_request(driver.IS_VALID_PATH, side.builder), driver.truth_reply(1)
    with side.driver.line() as line:
        assert line.ask(request, len(reply)) == reply
    return request, reply


def _path_info(side: Side) -> tuple[bytes, bytes]:
    request = driver.path_request(driver.QUERY_PATH_INFO, side.builder)
    with side.driver.line() as line:
        return request, line.learn(request)


def _valid_build(side: Side) -> tuple[bytes, bytes]:
    recipe = side.recipes.make()
    side.add([recipe])
    side.build([recipe])
    request = side.driver.build_request(recipe.path)
    with side.driver.line() as line:
        reply = line.learn(request)
    assert reply.endswith(driver.truth_reply(1)), reply
    return request, reply


def _single(
    lab: Lab,
    name: str,
    prepare: Callable[[Side], tuple[bytes, bytes]],
    cpu: int,
    goals: tuple[Goal, ...],
) -> Figure:
    """Measure one request, again and again from one client, with the daemon on a CPU."""
    request, reply = prepare(lab.ours)
    count = lab.scaled(5000, 1000)
    with ExitStack() as stack:
        pin_again = stack.enter_context(pinned(lab.cpus[0], *lab.pids, daemon=cpu))
        bare = floors.ping_pong(len(request), len(reply), count, cpu)
        floor = stack.enter_context(bare)

        def contestant(side: Side) -> Contestant:
            question, answer = prepare(side)
            line = stack.enter_context(side.driver.line())
            pin_again()
            return lambda: timed(lambda: line.ask(question, len(answer)), count)

        series = lab.contest(contestant, floor)
    return Figure(name, "a round trip of these sizes", Unit.SECONDS, series, goals)


def _many(lab: Lab) -> Figure:
    """Measure a request that many clients make at once."""
    count = lab.scaled(300, 60)
    request, reply = _path_info(lab.ours)
    with ExitStack() as stack:
        echoes = [
            Line(stack.enter_context(floors.echo(len(request), len(reply)))) for _ in range(CLIENTS)
        ]

        def rounds_of(lines: list[Line], question: bytes, size: int) -> Contestant:
            def once() -> None:
                for line in lines:
                    line.socket.sendall(question)
                for line in lines:
                    received = len(line.socket.recv(65536))
                    assert received == size

            return lambda: timed(once, count) / CLIENTS

        def contestant(side: Side) -> Contestant:
            question, answer = _path_info(side)
            lines = [stack.enter_context(side.driver.line()) for _ in range(CLIENTS)]
            assert all(line.ask(question, len(answer)) == answer for line in lines)
            return rounds_of(lines, question, len(answer))

        series = lab.contest(contestant, rounds_of(echoes, request, len(reply)))
    name = f"path-info, {CLIENTS} clients, each request"
    return Figure(name, "the same with a process a client", Unit.SECONDS, series, (EQUAL,))
