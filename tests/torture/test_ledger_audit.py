"""The audit of a ledger round: it is content with a sound book, and names each kind of lie."""

from collections.abc import Callable, Mapping
from random import Random

import pytest

from clawsettle.domain.transfers import parse_transfer
from tests.domain.ledger_cases import ALICE, ALICE_DID, BOB_DID, request
from tests.storage.books import done, open_accounts, open_book
from tests.torture.ledger_load import Fate, LedgerLoad, Order, Place
from tests.torture.ledger_round import audit_ledger

Fates = dict[str, Fate]
A_PAYIN, A_TRANSFER = "k1", "t1"


def _fate(key: str, moves: Mapping[Place, int], body: Mapping[str, object]) -> Fate:
    return Fate(Order(key, "/any", {}, moves), [(200, body)])


def _is_not_told_of(fates: Fates) -> None:
    del fates[A_TRANSFER]


def _is_refused(fates: Fates) -> None:
    fates[A_TRANSFER].answers = [(400, {"code": "INSUFFICIENT_FUNDS"})]


def _is_another_event(fates: Fates) -> None:
    fates[A_TRANSFER].answers.append((200, {"event_id": "evt_other"}))


def _is_the_others_event(fates: Fates) -> None:
    fates[A_TRANSFER].answers = [(200, {"event_id": fates[A_PAYIN].answers[0][1]["event_id"]})]


def _is_of_another_amount(fates: Fates) -> None:
    fates[A_TRANSFER] = _fate(A_TRANSFER, {(ALICE_DID, "A"): -1}, fates[A_TRANSFER].answers[0][1])


LIES: dict[str, Callable[[Fates], None] | None] = {
    "": None,
    "an event nobody was told of: ": _is_not_told_of,
    "refused, but in the journal: t1": _is_refused,
    "accepted, but not by one event: t1": _is_another_event,
    "one event for two orders: ": _is_the_others_event,
    "a bucket is not the sum of its orders: ": _is_of_another_amount,
}


@pytest.mark.parametrize(("said", "lie"), LIES.items(), ids=lambda value: str(value)[:30])
async def test_what_clients_were_told_and_the_books_do_not_say_is_named(
    database_url: str, said: str, lie: Callable[[Fates], None] | None
) -> None:
    body = {
        "idempotency_key": A_TRANSFER,
        "currency": "USD",
        "from": {"account": ALICE_DID, "bucket": "A"},
        "to": {"account": BOB_DID, "bucket": "P"},
        "amount_minor": "300",
    }
    moves = {(ALICE_DID, "A"): -300, (BOB_DID, "P"): 300}
    async with open_book(database_url) as book:
        await open_accounts(book)
        payin, moved = await done(
            book, request(A_PAYIN), parse_transfer(body, currency=book.currency)
        )
        event = payin.body["event"]
        assert isinstance(event, dict)
        load = LedgerLoad([], [(ALICE_DID, ALICE)], 1, Random(1))
        load.fates = {
            A_PAYIN: _fate(A_PAYIN, {(ALICE_DID, "A"): 1000}, {"event_id": event["id"]}),
            A_TRANSFER: _fate(A_TRANSFER, moves, dict(moved.body)),
        }
        if lie is not None:
            lie(load.fates)
        problems = await audit_ledger(book.database, load)
        assert any(problem.startswith(said) for problem in problems) if lie else problems == []
