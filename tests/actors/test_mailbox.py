"""How work enters an actor: in order, bounded, refused out loud; how its answer leaves."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clawsettle.actors.mailbox import Ask, Mailbox, Reply
from clawsettle.domain.errors import Overloaded


def by_length(capacity: int) -> Mailbox[str]:
    return Mailbox(capacity, size=len)


async def test_items_leave_in_the_order_in_which_they_came() -> None:
    mailbox: Mailbox[int] = Mailbox(10)
    for number in range(10):
        mailbox.put(number)
    assert await mailbox.take(4) == [0, 1, 2, 3]
    mailbox.put(10)
    assert await mailbox.take(100) == [4, 5, 6, 7, 8, 9, 10]


async def test_a_lone_item_does_not_wait_for_company() -> None:
    mailbox: Mailbox[str] = Mailbox(10)
    taken: list[list[str]] = []

    async def take() -> None:
        taken.append(await mailbox.take(5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        mailbox.put("a")
        await wait_all_tasks_blocked()
        assert taken == [["a"]]


async def test_what_is_taken_at_once_is_bounded_by_size() -> None:
    mailbox = by_length(100)
    for item in ("aa", "bb", "ccc", "d"):
        mailbox.put(item)
    assert await mailbox.take(5) == ["aa", "bb"]
    assert await mailbox.take(3) == ["ccc"]
    assert await mailbox.take(3) == ["d"]


async def test_an_item_larger_than_the_limit_is_taken_alone() -> None:
    mailbox = by_length(100)
    mailbox.put("aaaaa")
    mailbox.put("b")
    assert await mailbox.take(2) == ["aaaaa"]
    assert await mailbox.take(2) == ["b"]


def test_a_full_mailbox_refuses_and_keeps_what_it_has() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.put(1)
    mailbox.put(2)
    with pytest.raises(Overloaded) as caught:
        mailbox.put(3)
    assert (caught.value.code, caught.value.retryable) == ("OVERLOADED", True)
    assert mailbox.statistics() == {"waiting": 2, "capacity": 2}


def test_capacity_counts_by_size() -> None:
    mailbox = by_length(5)
    mailbox.put("aaa")
    with pytest.raises(Overloaded):
        mailbox.put("bbb")
    mailbox.put("bb")
    assert mailbox.statistics() == {"waiting": 5, "capacity": 5}
    with pytest.raises(Overloaded):
        mailbox.put("c")


def test_an_oversize_item_is_taken_when_nothing_waits_and_then_the_mailbox_is_full() -> None:
    mailbox = by_length(3)
    mailbox.put("aaaaaaaa")
    with pytest.raises(Overloaded):
        mailbox.put("b")


def test_an_oversize_item_is_refused_while_something_waits() -> None:
    mailbox = by_length(3)
    mailbox.put("a")
    with pytest.raises(Overloaded):
        mailbox.put("bbbbbbbb")
    mailbox.put("bb")


async def test_taking_makes_room_for_exactly_what_was_taken() -> None:
    mailbox = by_length(6)
    mailbox.put("aaaa")
    mailbox.put("bb")
    assert await mailbox.take(4) == ["aaaa"]
    assert mailbox.statistics()["waiting"] == 2
    mailbox.put("cccc")
    with pytest.raises(Overloaded):
        mailbox.put("d")


async def test_a_closed_mailbox_refuses_and_hands_out_what_waits_then_nothing() -> None:
    mailbox: Mailbox[int] = Mailbox(10)
    mailbox.put(1)
    mailbox.put(2)
    mailbox.close()
    with pytest.raises(Overloaded):
        mailbox.put(3)
    assert await mailbox.take(1) == [1]
    assert await mailbox.take(9) == [2]
    assert await mailbox.take(9) == []
    assert await mailbox.take(9) == []


async def test_closing_wakes_a_taker_that_waits() -> None:
    mailbox: Mailbox[int] = Mailbox(10)
    taken: list[list[int]] = []

    async def take() -> None:
        taken.append(await mailbox.take(5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        mailbox.close()
    assert taken == [[]]


async def test_a_taker_that_was_cancelled_leaves_everything_to_the_next() -> None:
    mailbox: Mailbox[int] = Mailbox(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.take, 5)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        mailbox.put(1)
    mailbox.put(2)
    with trio.fail_after(1):
        assert await mailbox.take(5) == [1, 2]


async def test_an_answer_reaches_everyone_who_waits_and_whoever_comes_late() -> None:
    reply: Reply[str] = Reply()
    heard: list[str] = []

    async def wait() -> None:
        heard.append(await reply.wait())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert heard == []
        reply.resolve("yes")
    assert [*heard, await reply.wait()] == ["yes"] * 6


async def test_an_answer_is_given_once() -> None:
    resolved: Reply[str] = Reply()
    resolved.resolve("first")
    resolved.resolve("second")
    resolved.reject(ValueError("third"))
    assert await resolved.wait() == "first"

    rejected: Reply[str] = Reply()
    rejected.reject(ValueError("first"))
    rejected.reject(ValueError("second"))
    rejected.resolve("third")
    with pytest.raises(ValueError, match="first"):
        await rejected.wait()


async def test_an_error_reaches_everyone_who_waits() -> None:
    reply: Reply[str] = Reply()
    error = Overloaded("no room", details={"field": "mailbox"})
    caught: list[Overloaded] = []

    async def wait() -> None:
        try:
            await reply.wait()
        except Overloaded as raised:
            caught.append(raised)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        reply.reject(error)
    told = [(raised.message, raised.code, raised.details) for raised in caught]
    assert told == [("no room", "OVERLOADED", {"field": "mailbox"})] * 3


async def test_none_is_an_answer_too() -> None:
    reply: Reply[str | None] = Reply()
    reply.resolve(None)
    with trio.fail_after(1):
        assert await reply.wait() is None


async def test_a_waiter_that_leaves_takes_the_answer_from_nobody() -> None:
    ask: Ask[str, int] = Ask("how many?")
    with trio.move_on_after(0):
        await ask.reply.wait()
    ask.reply.resolve(7)
    assert await ask.reply.wait() == 7


def test_each_ask_has_a_place_of_its_own_for_the_answer() -> None:
    first: Ask[str, int] = Ask("q")
    second: Ask[str, int] = Ask("q")
    assert first != second
    assert first.reply is not second.reply


async def test_what_was_cleared_is_gone_and_its_place_is_free() -> None:
    box: Mailbox[int] = Mailbox(2)
    box.put(1)
    box.put(2)
    box.clear()
    assert box.statistics() == {"waiting": 0, "capacity": 2}
    box.put(3)
    box.put(4)
    assert await box.take(10) == [3, 4]
