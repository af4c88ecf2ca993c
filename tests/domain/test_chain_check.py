"""The walk over the journal: what it finds, and what it must not miss."""

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from clawsettle.domain.journal import ChainCheck, Event, Tail
from tests.domain.ledger_cases import fund, new_book


def journal() -> tuple[Event, ...]:
    """Four events of one book."""
    book = new_book()
    for amount_minor in (1, 2, 3, 4):
        fund(book, amount_minor)
    return tuple(book.events)


def tail_of(event: Event) -> Tail:
    return Tail(event.seq, event.event_hash, event.created_at)


def test_a_sound_journal_is_walked_in_stretches_without_a_fault() -> None:
    events = journal()
    chain = ChainCheck()
    chain.walk(events[:1])
    chain.walk(events[1:])
    chain.walk([])
    chain.reached(tail_of(events[-1]))
    assert (chain.errors, chain.count) == ([], 4)
    assert chain.tail == tail_of(events[-1])


def test_each_fault_is_named_and_the_walk_goes_on() -> None:
    first, second, _, fourth = journal()
    early = evolve(fourth, created_at=first.created_at - timedelta(milliseconds=1))
    chain = ChainCheck()
    chain.walk([first, evolve(second, amount_minor=9), early])
    assert chain.errors == [
        "event 2: its content does not match its hash",
        "event 4: follows event 2",
        "event 4: does not link to the event before it",
        "event 4: is older than the event before it",
        "event 4: its content does not match its hash",
    ]
    assert chain.count == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"event_type": "payin_reverse"},
        {"account_id": "acc_other"},
        {"to_account_id": "acc_other"},
        {"amount_minor": 9},
        {"bucket": "held"},
        {"idempotency_key": "k"},
        {"event_hash": "0" * 64},
    ],
)
def test_no_hashed_field_can_be_changed_unseen(changed: dict[str, Any]) -> None:
    *before, last = journal()
    chain = ChainCheck()
    chain.walk([*before, evolve(last, **changed)])
    assert chain.errors == ["event 4: its content does not match its hash"]


def test_a_journal_that_was_cut_off_or_replaced_is_named() -> None:
    events = journal()
    end = tail_of(events[-1])
    for walked, known, sound in [
        (events[:3], end, False),
        ((), end, False),
        (events, evolve(end, event_hash="0" * 64), False),
        # More may have been written since the tail was looked at.
        (events, tail_of(events[2]), True),
    ]:
        chain = ChainCheck()
        chain.walk(walked)
        chain.reached(known)
        said = f"event {known.seq}: is the tail, but the journal does not end in it"
        assert chain.errors == ([] if sound else [said])
