# SPDX-License-Identifier: GPL-3.0-or-later
"""Room for long requests: who waits, who goes on, and who loses it."""

import pytest
import trio
import trio.testing

from storedaemon.request_memory import FREE, PATIENCE, RequestMemory, Share, SilentClientError

LIMIT = 1000


@pytest.fixture
def memory() -> RequestMemory:
    """Room for a thousand bytes."""
    return RequestMemory(LIMIT)


async def wants(share: Share, size: int, done: list[Share]) -> None:
    """Hold so much beyond what is free, and say when that is so."""
    await share.hold(FREE + size)
    done.append(share)


async def test_short_requests_do_not_count(memory: RequestMemory):
    """However many there are, and however little room there is."""
    with memory.share() as full:
        await full.hold(FREE + LIMIT)
        with memory.share() as short:
            await short.hold(FREE)
            assert short.size == 0
        assert memory.statistics().used == LIMIT
    assert memory.statistics().used == 0


async def test_requests_wait_in_line_for_room(memory: RequestMemory, nursery: trio.Nursery):
    """A small one does not pass a large one, which would never get in."""
    first, large, small = memory.share(), memory.share(), memory.share()
    done: list[Share] = []
    await first.hold(FREE + 600)
    nursery.start_soon(wants, large, 500, done)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(wants, small, 100, done)
    await trio.testing.wait_all_tasks_blocked()
    assert not done
    assert memory.statistics().waiting == 2
    first.release()
    await trio.testing.wait_all_tasks_blocked()
    assert set(done) == {large, small}
    assert (memory.statistics().used, memory.statistics().waited) == (600, 2)


async def test_the_oldest_request_always_goes_on(memory: RequestMemory, nursery: trio.Nursery):
    """Or else those that each have a part would wait for each other for ever."""
    shares = [memory.share() for _ in range(4)]
    done: list[Share] = []
    for share in shares:
        await share.hold(FREE + 250)
    for share in reversed(shares):
        nursery.start_soon(wants, share, 5000, done)
    for number, share in enumerate(shares, 1):
        await trio.testing.wait_all_tasks_blocked()
        assert done == shares[:number]
        assert memory.statistics().used <= 5000 + LIMIT
        share.release()
    assert memory.statistics().used == 0


async def test_who_gives_up_waiting_leaves_the_line(memory: RequestMemory, nursery: trio.Nursery):
    """And whoever stood behind moves up."""
    first, impatient, last = memory.share(), memory.share(), memory.share()
    done: list[Share] = []
    await first.hold(FREE + 900)
    with trio.CancelScope() as scope:
        nursery.start_soon(wants, last, 50, done)
        scope.cancel()
        with impatient:
            await impatient.hold(FREE + 500)
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert done == [last]
    last.release()
    first.release()
    assert memory.statistics().used == memory.statistics().waiting == 0


async def test_who_gave_up_is_not_the_oldest_any_more(memory: RequestMemory, nursery: trio.Nursery):
    """Or else nobody would be, and those that each have a part would wait for ever."""
    first, impatient, *others = (memory.share() for _ in range(4))
    done: list[Share] = []
    await first.hold(FREE + LIMIT)
    with trio.CancelScope() as scope:
        scope.cancel()
        with impatient:
            await impatient.hold(FREE + 500)
    first.release()
    for share in others:
        await share.hold(FREE + 500)
        nursery.start_soon(wants, share, 5000, done)
    await trio.testing.wait_all_tasks_blocked()
    assert done == others[:1]
    done[0].release()
    await trio.testing.wait_all_tasks_blocked()
    assert done == others


async def test_what_is_given_back_while_waiting_for_more_is_not_wanted_any_more(
    memory: RequestMemory, nursery: trio.Nursery
):
    """So whoever has become small enough goes on, though there is no room."""
    first, shrinking = memory.share(), memory.share()
    done: list[Share] = []
    await first.hold(FREE + 600)
    await shrinking.hold(FREE + 400)
    nursery.start_soon(wants, shrinking, 700, done)
    await trio.testing.wait_all_tasks_blocked()
    shrinking.lower(FREE + 500)
    await trio.testing.wait_all_tasks_blocked()
    assert (done, memory.statistics().waiting) == ([], 1)
    shrinking.lower(FREE + 300)
    await trio.testing.wait_all_tasks_blocked()
    assert done == [shrinking]
    assert (memory.statistics().used, shrinking.size) == (900, 300)
    shrinking.release()
    first.release()
    assert memory.statistics().used == 0


async def test_a_silent_client_loses_its_request_to_those_that_wait(
    memory: RequestMemory,
    nursery: trio.Nursery,
    autojump_clock: None,  # noqa: ARG001 - no time passes in this test
):
    """Not before, and not while nobody needs the room."""
    silent, waiting = memory.share(), memory.share()
    done: list[Share] = []
    await silent.hold(FREE + LIMIT)

    async def wait() -> None:
        await trio.sleep(100 * PATIENCE)
        await wants(waiting, 1, done)

    nursery.start_soon(wait)
    started = trio.current_time()
    refused = pytest.raises(SilentClientError, match="others need the memory")
    with refused, silent, silent.listening():
        await trio.sleep_forever()
    assert trio.current_time() - started == pytest.approx(101 * PATIENCE)
    await trio.testing.wait_all_tasks_blocked()
    assert done == [waiting]
    assert memory.statistics().dropped == 1


async def test_a_client_that_goes_on_is_waited_for(
    memory: RequestMemory,
    nursery: trio.Nursery,
    autojump_clock: None,  # noqa: ARG001 - no time passes in this test
):
    """However slow it is."""
    slow, waiting = memory.share(), memory.share()
    done: list[Share] = []
    await slow.hold(FREE + LIMIT)
    nursery.start_soon(wants, waiting, 1, done)
    for _ in range(10):
        with slow.listening():
            await trio.sleep(0.9 * PATIENCE)
    slow.release()
    await trio.testing.wait_all_tasks_blocked()
    assert done == [waiting]
