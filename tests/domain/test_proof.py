"""The replay of a journal: what it finds, and what it must not miss.

What is wrong in the rows beside the journal is tests/storage/test_book_tampering.py's.
"""

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from clawsettle.domain.journal import Bucket, Event, Posting, Tail
from clawsettle.domain.proof import ERRORS_MAX, Proof
from tests.domain.ledger_cases import ALICE, BOB, STRIPE_USD, events_of, fund, new_book

CONTENT = "event 4: its content does not match its hash"


def journal() -> tuple[Event, ...]:
    """Four events of one book."""
    book = new_book()
    for amount_minor in (1, 2, 3, 4):
        fund(book, amount_minor)
    return tuple(events_of(book))


def tail_of(event: Event) -> Tail:
    return Tail(event.seq, event.event_hash, event.content_hash, event.created_at)


def faults_with(**changed: Any) -> list[str]:
    """What is found when the last event is changed."""
    *before, last = journal()
    proof = Proof()
    proof.take([*before, evolve(last, **changed)])
    return proof.errors


def test_a_sound_journal_is_walked_in_stretches_without_a_fault() -> None:
    events = journal()
    proof = Proof()
    for stretch in (events[:1], events[1:], ()):
        proof.take(stretch)
    proof.reached(tail_of(events[-1]))
    assert (proof.errors, proof.event_count) == ([], 4)
    assert proof.tail == tail_of(events[-1])


def test_each_fault_is_named_and_the_walk_goes_on() -> None:
    first, second, _, fourth = journal()
    early = evolve(fourth, created_at=first.created_at - timedelta(milliseconds=1))
    proof = Proof()
    proof.take([first, evolve(second, idempotency_key="k"), early])
    assert [error for error in proof.errors if "content hash" not in error] == [
        "event 2: its content does not match its hash",
        "event 4: follows event 2",
        "event 4: does not link to the event before it",
        "event 4: is older than the event before it",
        "event 4: its content does not match its hash",
    ]
    assert proof.event_count == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"event_type": "payin_reverse"},
        {"account_id": BOB},
        {"to_account_id": BOB},
        {"amount_minor": 9},
        {"bucket": Bucket.HELD},
        {"idempotency_key": "k"},
        {"event_hash": "0" * 64},
    ],
)
def test_no_hashed_field_can_be_changed_unseen(changed: dict[str, Any]) -> None:
    assert CONTENT in faults_with(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"event_id": "evt_other"},
        {"request_hash": "0" * 64},
        {"metadata_json": "{}"},
        {"postings": ()},
        {
            "postings": (
                Posting(BOB, Bucket.AVAILABLE, 4),
                Posting(STRIPE_USD, Bucket.AVAILABLE, -4),
            )
        },
        {"content_hash": "0" * 64},
    ],
)
def test_nothing_that_the_contracts_hash_leaves_out_can_be_changed_unseen(
    changed: dict[str, Any],
) -> None:
    assert any("content hash" in error for error in faults_with(**changed))


@pytest.mark.parametrize(
    ("deltas", "whose"),
    [((4, -3), ALICE), ((3, -3), ALICE), ((-4, 4), ALICE), ((4, -4), BOB), ((4,), ALICE)],
)
def test_postings_that_say_something_else_than_their_event_are_named(
    deltas: tuple[int, ...], whose: str
) -> None:
    postings = tuple(
        Posting(account_id, Bucket.AVAILABLE, delta_minor)
        for account_id, delta_minor in zip((whose, STRIPE_USD), deltas, strict=False)
    )
    assert "event 4: its postings do not balance what it says" in faults_with(postings=postings)


def test_a_journal_that_was_cut_off_or_replaced_is_named() -> None:
    events = journal()
    end = tail_of(events[-1])
    for walked, known, sound in [
        (events[:3], end, False),
        ((), end, False),
        (events, evolve(end, event_hash="0" * 64), False),
        (events, evolve(end, content_hash="0" * 64), False),
        # More may have been written since the tail was looked at.
        (events, tail_of(events[2]), True),
    ]:
        proof = Proof()
        proof.take(walked)
        proof.reached(known)
        said = f"event {known.seq}: is the tail, but the journal does not end in it"
        assert proof.errors == ([] if sound else [said])


def test_of_many_faults_the_first_are_kept_and_all_are_counted() -> None:
    events = journal()
    proof = Proof()
    for _ in range(ERRORS_MAX):
        proof.take([events[2]])
    assert len(proof.errors) == ERRORS_MAX
    assert proof.error_count > ERRORS_MAX
    assert proof.errors[0] == "event 3: follows event 0"
