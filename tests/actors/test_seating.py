"""Seats: whoever is told of room finds the rows that had none."""

from clawsettle.actors.seating import Seating


def test_rows_that_found_no_seat_are_told_of_room_once_they_are_there() -> None:
    rings: list[None] = []
    seating = Seating(4, lambda: rings.append(None))
    with seating.reserve(3) as seats:
        kinds = [seats.take() for _ in range(3)]
    with seating.reserve(2) as none:
        assert none.count == 0
        seating.leave(kinds.pop())
        assert not rings
    assert len(rings) == 1


def test_a_batch_of_which_some_found_no_seat_is_told_of_room() -> None:
    rings: list[None] = []
    seating = Seating(4, lambda: rings.append(None))
    with seating.reserve(5) as seats:
        assert seats.count == 3
    assert len(rings) == 1
