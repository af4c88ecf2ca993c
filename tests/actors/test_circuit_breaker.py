"""Circuit breakers: when calls are made, and when they are made again."""

from trio.testing import MockClock

from clawsettle.actors.circuit_breaker import Circuit, CircuitBreaker


def state_of(breaker: CircuitBreaker) -> Circuit:
    """What a breaker says now."""
    return breaker.state


async def test_so_many_failures_in_a_row_open_it_until_one_call_is_tried(
    autojump_clock: MockClock,
) -> None:
    breaker = CircuitBreaker(2, 15.0)
    breaker.fail()
    breaker.succeed()
    breaker.fail()
    assert state_of(breaker) is Circuit.CLOSED
    breaker.fail()
    assert state_of(breaker) is Circuit.OPEN
    autojump_clock.jump(15.0)
    assert state_of(breaker) is Circuit.HALF_OPEN
    breaker.fail()
    assert state_of(breaker) is Circuit.OPEN
    autojump_clock.jump(15.0)
    breaker.succeed()
    assert state_of(breaker) is Circuit.CLOSED


async def test_what_was_asked_before_ends_no_pause(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(5, 15.0)
    breaker.pause(60.0)
    breaker.succeed()
    breaker.fail()
    autojump_clock.jump(59.0)
    assert state_of(breaker) is Circuit.OPEN
    autojump_clock.jump(1.0)
    assert state_of(breaker) is Circuit.HALF_OPEN
    breaker.succeed()
    assert state_of(breaker) is Circuit.CLOSED
