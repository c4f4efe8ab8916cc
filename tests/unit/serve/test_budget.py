"""A budget of bytes: never more than the limit in flight, first come first served, and one too large for it passes alone."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aorist.budget import Budget


async def _started(budget: Budget, size: int) -> asyncio.Task[None]:
    task = asyncio.create_task(budget.take(size))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_what_fits_does_not_wait() -> None:
    budget = Budget(10)
    assert [(await _started(budget, size)).done() for size in (4, 6)] == [True, True]


async def test_what_does_not_fit_waits_for_its_turn() -> None:
    budget = Budget(10)
    await budget.take(8)
    large, small = await _started(budget, 5), await _started(budget, 1)
    assert not large.done()
    assert not small.done()  # it would fit, but is behind
    budget.give(8)
    await asyncio.gather(large, small)


async def test_none_overtakes_one_whose_turn_has_come() -> None:
    budget, order = Budget(10), list[str]()

    async def take(name: str) -> None:
        await budget.take(5)
        order.append(name)

    await budget.take(10)
    first = asyncio.create_task(take("first"))
    await asyncio.sleep(0)
    budget.give(10)
    await take("second")  # it begins before the first has run
    await first
    assert order == ["first", "second"]


async def test_one_larger_than_all_passes_alone() -> None:
    budget = Budget(10)
    await budget.take(1)
    huge = await _started(budget, 100)
    assert not huge.done()
    budget.give(1)
    await huge
    after = await _started(budget, 1)
    assert not after.done()
    budget.give(100)
    await after


async def test_who_stops_waiting_takes_nothing() -> None:
    budget = Budget(10)
    await budget.take(10)
    gone, next_ = await _started(budget, 10), await _started(budget, 10)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    budget.give(10)
    await next_


async def test_who_stops_just_when_it_is_its_turn_gives_it_on() -> None:
    budget = Budget(10)
    await budget.take(10)
    gone, next_ = await _started(budget, 10), await _started(budget, 10)
    budget.give(10)
    gone.cancel()  # its turn has come, but it has not run yet
    with pytest.raises(asyncio.CancelledError):
        await gone
    await asyncio.wait_for(next_, 30)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 15), max_size=30), st.randoms())
def test_no_more_than_the_limit_is_ever_in_flight_and_order_is_kept(sizes: list[int], random: object) -> None:
    async def run() -> None:
        budget, in_flight, order = Budget(10), list[int](), list[int]()

        async def one(number: int, size: int) -> None:
            await budget.take(size)
            order.append(number)
            in_flight.append(size)
            assert sum(in_flight) <= 10 or in_flight == [size]
            await asyncio.sleep(0)
            in_flight.remove(size)
            budget.give(size)

        await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes)))
        assert order == list(range(len(sizes)))

    asyncio.run(run())
