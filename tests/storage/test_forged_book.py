"""A forger who computes every hash anew is still held to what a ledger would have decided."""

from collections.abc import Callable
from datetime import timedelta

import pytest
import trio
from attrs import evolve

from clawsettle.domain.journal import GENESIS_HASH, Bucket, Event, Posting, content_hash, event_hash
from clawsettle.domain.proof import Proof
from tests.conftest import Postgres
from tests.storage.whole_book import BOB_ID, read_book, write_history

Forgery = Callable[[Event], Event]


@pytest.fixture(scope="module")
def journal(postgres: Postgres) -> list[Event]:
    url = postgres.server.dsn_of(postgres.create_database("migrated"))
    trio.run(write_history, url)
    return [item for item in trio.run(read_book, url) if isinstance(item, Event)]


def chained(events: list[Event]) -> list[Event]:
    """The events with numbers and hashes as if they had been written so."""
    link = content = GENESIS_HASH
    found = []
    for seq, event in enumerate(events, 1):
        previous, link = (
            link,
            event_hash(
                link,
                event_type=event.event_type,
                account_id=event.account_id,
                to_account_id=event.to_account_id,
                amount_minor=event.amount_minor,
                bucket=event.bucket,
                idempotency_key=event.idempotency_key,
                created_at=event.created_at,
            ),
        )
        content = content_hash(
            content,
            link,
            event_id=event.event_id,
            request_hash=event.request_hash,
            postings=event.postings,
            metadata_json=event.metadata_json,
        )
        found.append(
            evolve(event, seq=seq, previous_hash=previous, event_hash=link, content_hash=content)
        )
    return found


def prove(events: list[Event]) -> list[str]:
    proof = Proof()
    proof.take(events)
    return proof.errors


def retold(was: str, now: str) -> Forgery:
    """A forgery that changes what an event's metadata says."""

    def forge(event: Event) -> Event:
        assert was in event.metadata_json
        return evolve(event, metadata_json=event.metadata_json.replace(was, now))

    return forge


def repriced(amount_minor: int) -> Forgery:
    """A forgery of the amount that leaves the postings in balance."""

    def forge(event: Event) -> Event:
        first, second = event.postings
        return evolve(
            event,
            amount_minor=amount_minor,
            postings=(
                evolve(first, delta_minor=-amount_minor),
                evolve(second, delta_minor=amount_minor),
            ),
        )

    return forge


def elsewhere(event: Event) -> Event:
    first, second = event.postings
    return evolve(event, postings=(first, evolve(second, account_id=BOB_ID)))


FORGERIES: list[tuple[int, Forgery, str]] = [
    (9, lambda event: evolve(event, amount_minor=1), "its postings do not balance what it says"),
    (9, lambda event: evolve(event, postings=()), "its postings do not balance what it says"),
    (9, lambda event: evolve(event, to_account_id="acc_x"), "its postings do not balance"),
    (10, elsewhere, "its postings do not balance what it says"),
    (1, elsewhere, "its postings do not balance what it says"),
    (
        7,
        lambda event: evolve(event, postings=(Posting(event.account_id, Bucket.PROMO, 400),)),
        "its postings do not balance what it says",
    ),
    (12, repriced(1201), f"takes available of {BOB_ID} below zero"),
    (9, lambda event: evolve(event, created_at=event.created_at - timedelta(days=1)), "is older"),
    (21, retold('"undercut"', '"cut"'), f"leaves {BOB_ID} less held than is reserved"),
    (16, retold('"payout:2"', '"payout:1"'), "cannot do to payout:1 what it says it does"),
    (16, retold('"payout:2"', '"payout:9"'), "cannot do to payout:9 what it says it does"),
    (16, retold('"closed":"payout"', '"closed":"risk_hold"'), "cannot do to payout:2"),
    (17, retold('"opened":"payout"', '"opened":"gift"'), "cannot do to payout:3"),
    (17, retold('"opened":"payout"', '"opened":["payout"]'), "cannot do to payout:3"),
    (17, retold('"payout:3"', '"payout:2"'), "cannot do to payout:2 what it says it does"),
    (16, repriced(799), "cannot do to payout:2 what it says it does"),
    (18, retold('"reason"', '"no reason"'), "does not tell what rsk_"),
    (18, retold('"spec_v1":{', '"spec_v1":[],"x":{'), "does not tell what rsk_"),
    (17, lambda event: evolve(event, metadata_json='["reservation"]'), "its metadata is no JSON"),
    (17, lambda event: evolve(event, metadata_json='"reservation"'), "its metadata is no JSON"),
    (17, lambda event: evolve(event, metadata_json='{"reservation"'), "its metadata is no JSON"),
    (17, lambda event: evolve(event, metadata_json='{"reservation":1}'), "cannot do to None"),
]


def test_the_whole_journal_is_sound_and_chained_as_it_was_written(journal: list[Event]) -> None:
    assert prove(journal) == []
    assert chained(journal) == journal


@pytest.mark.parametrize(("seq", "forge", "problem"), FORGERIES)
def test_what_no_ledger_decides_is_named(
    journal: list[Event], seq: int, forge: Forgery, problem: str
) -> None:
    forged = chained([forge(event) if event.seq == seq else event for event in journal])
    assert prove(forged)[0].startswith(f"event {seq}: {problem}"), prove(forged)


def test_a_reservation_is_spent_once(journal: list[Event]) -> None:
    forged = chained([*journal[:16], journal[15], *journal[16:]])
    assert "event 17: cannot do to payout:2 what it says it does" in prove(forged)
