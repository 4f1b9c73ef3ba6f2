# SPDX-License-Identifier: GPL-3.0-or-later
"""Build users are one daemon's at a time, with real locks; who is in a group is made up."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from builder import users
from builder.errors import BuildError
from builder.users import BuildUser, BuildUsers

ONE, TWO = (BuildUser(name, uid, 64300, ()) for name, uid in (("one", 64301), ("two", 64302)))

Make = Callable[..., BuildUsers]


@pytest.fixture
def killed() -> list[BuildUser]:
    """The users whose processes were ended."""
    return []


@pytest.fixture
def make(tmp_path: Path, killed: list[BuildUser], monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make the pools of daemons, each with a state directory."""

    async def kill(user: BuildUser) -> None:
        await trio.lowlevel.checkpoint()
        killed.append(user)

    monkeypatch.setattr(users, "members", {"both": [ONE, TWO], "single": [ONE]}.__getitem__)

    def pool(state: str, group: str = "both") -> BuildUsers:
        return BuildUsers(group, (f"{tmp_path}/{state}", f"{tmp_path}/machine"), kill)

    return pool


def never(_: int) -> None:
    """Fail where nobody is to wait."""
    raise AssertionError("it waits")


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("state", ["first", "second"])
async def test_daemons_do_not_take_each_others_users(
    make: Make, killed: list[BuildUser], state: str
):
    """With the same state directory or with others; so neither kills what the other builds."""
    first, second = make("first"), make(state)
    async with first.borrow(never) as mine, second.borrow(never) as theirs:
        assert (mine, theirs) == (ONE, TWO)
        assert killed == [ONE, TWO]
    single = make("third", "single")
    with pytest.raises(BuildError, match="all build users are currently in use"):
        async with single.borrow(never):
            pass
    first.release_idle()
    async with single.borrow(never) as mine:
        assert mine == ONE
    assert killed == [ONE, TWO, ONE]
    for pool in (second, single):
        pool.release_idle()


@pytest.mark.usefixtures("no_leaks")
async def test_a_user_that_stayed_ours_is_not_emptied_again(make: Make, killed: list[BuildUser]):
    """And whoever needs one waits until a build gives it back."""
    pool, waited = make("state", "single"), []

    async def build() -> None:
        async with pool.borrow(waited.append):
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(build)
        nursery.start_soon(build)  # while the other's user is still being emptied
    assert (killed, waited) == ([ONE], [1])
    pool.release_idle()


@pytest.mark.usefixtures("no_leaks")
async def test_a_user_that_cannot_be_emptied_is_free_again(
    tmp_path: Path,
    make: Make,  # noqa: ARG001 - makes up the group
):
    """The failure is one build's alone; whoever waited meanwhile tries it."""
    attempts: list[BuildUser] = []

    async def fail_once(user: BuildUser) -> None:
        attempts.append(user)
        await trio.testing.wait_all_tasks_blocked()
        if len(attempts) == 1:
            raise BuildError("no such luck")

    pool, outcomes = BuildUsers("single", (str(tmp_path),), fail_once), []

    async def build() -> None:
        try:
            async with pool.borrow(lambda _: None) as user:
                outcomes.append(user.name)
        except BuildError as error:
            outcomes.append(error.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(build)
        nursery.start_soon(build)
    assert outcomes == ["no such luck", "one"]
    pool.release_idle()


async def test_a_place_that_cannot_be_made_is_named(tmp_path: Path, make: Make):
    """Such as one below what a service may not write to."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"cannot make `.*/file/machine' for locks"):
        async with make("file/machine").borrow(never):
            pass


def test_where_run_cannot_be_written_the_state_directory_has_the_only_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A daemon in a container must build all the same."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(users, "MACHINE_POOL", f"{tmp_path}/file/pool")
    assert users.machine_pool() == ()
    monkeypatch.setattr(users, "MACHINE_POOL", f"{tmp_path}/pool")
    assert users.machine_pool() == (f"{tmp_path}/pool",)
