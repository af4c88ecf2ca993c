"""What the forwarder relies on, of every ledger: in process, over HTTP, and through faults."""

import json
from typing import Any

import pytest
import trio

from clawsettle.domain.forwarding import Accepted, Forwardable, LedgerOutcome, Refused
from tests.clients.ledgers import ALICE, LEDGERS, Far, Open, sent
from tests.storage.deliveries import held, wait_for_locks

pytestmark = pytest.mark.parametrize("open_ledger", LEDGERS.values(), ids=LEDGERS)


def created(far: Far, outcome: LedgerOutcome) -> str:
    """Return the id of what must be new; behind faults the first answer may not have come."""
    assert isinstance(outcome, Accepted), outcome
    assert outcome.ledger_status in ({201} if far.faultless else {200, 201})
    return outcome.settlement_id


def refused(outcome: LedgerOutcome) -> tuple[int, str | None]:
    assert isinstance(outcome, Refused), outcome
    return outcome.ledger_status, outcome.code


async def test_a_new_payin_is_created_and_a_repetition_is_the_same(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        settlement_id = created(far, await far.one(sent()))
        (stored,) = await far.house.settlements("pi_1")
        assert (stored["id"], stored["metadata"]) == (settlement_id, {"note": "größer"})
        assert await far.one(sent()) == Accepted(200, settlement_id)
        assert await far.one(sent(key="stripe:event:evt_other")) == Accepted(200, settlement_id)
        assert await far.house.available(ALICE) == 100


async def test_a_conflict_is_refused_with_its_code_and_changes_nothing(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        created(far, await far.one(sent()))
        for settlement, code in (
            (sent(amount_minor="7"), "IDEMPOTENCY_KEY_REUSED"),
            (sent(key="k2", amount_minor="7"), "DUPLICATE_CONFLICT"),
            (sent(key="k3", status="pending"), "INVALID_STATUS_TRANSITION"),
        ):
            assert refused(await far.one(settlement)) == (409, code)
        assert await far.house.available(ALICE) == 100


async def test_an_unknown_account_is_refused_and_its_key_stays_free(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        assert refused(await far.one(sent())) == (404, "NOT_FOUND")
        await far.house.open_account()
        created(far, await far.one(sent()))
        assert await far.house.available(ALICE) == 100


async def test_a_refund_beyond_the_balance_waits_for_its_money(
    open_ledger: Open, database_url: str
) -> None:
    refund = sent(2, direction="refund", amount_minor="60")
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        assert refused(await far.one(refund)) == (422, "INSUFFICIENT_FUNDS")
        created(far, await far.one(sent()))
        created(far, await far.one(refund))
        assert await far.house.available(ALICE) == 40


async def test_every_status_of_a_payin_is_taken_in_the_order_of_the_news(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        ids = {
            created(far, await far.one(sent(key=f"k_{status}", status=status)))
            for status in ("pending", "failed", "confirmed", "reversed")
        }
        assert len(ids) == 1
        assert await far.house.available(ALICE) == 0


_TEXTS: list[Any] = [None, "", "  ", 7, [], {}, "x" * 256, "a\0b", "a\ud800b"]
_NO_MONEY: list[Any] = [None, 100, 1.5, "", "0", "-1", "1.0", "1e3", "٣", "9" * 40, str(2**63)]
_NO_METADATA: list[Any] = [[], "x", 1, {"a": "\0"}, {"\0": 1}, {"a": "\udfff"}, {"a": ["\0"]}]
_NO_METADATA += [
    {"a": float("nan")},
    {"a": [float("inf")]},
    {"a": json.loads("[" * 600 + "]" * 600)},
]
MALFORMED: dict[str, dict[str, Any]] = {
    **{
        f"{name} {value!r:.12}": {name: value}
        for name in ("provider", "external_payment_id", "account_id")
        for value in _TEXTS
    },
    **{f"direction {value!r}": {"direction": value} for value in (None, "", "PAYIN", "in", 1)},
    **{f"status {value!r}": {"status": value} for value in (None, "paid", " confirmed", True)},
    **{f"amount {value!r:.20}": {"amount_minor": value} for value in _NO_MONEY},
    **{f"currency {value!r}": {"currency": value} for value in (None, 1, "US", "USDT", "U\0D")},
    **{f"metadata {value!r:.12}": {"metadata": value} for value in _NO_METADATA},
    "a long rail": {"rail": "x" * 256},
    "a rail no database keeps": {"rail": "a\0b"},
    "a network no database keeps": {"network": "\ud800"},
}


async def test_what_is_malformed_is_refused_and_holds_up_nobody(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        malformed = [sent(n + 2, **change) for n, change in enumerate(MALFORMED.values())]
        outcomes = await far.ingest(sent(0), *malformed, sent(1))
        for name, outcome in zip(MALFORMED, outcomes[1:-1], strict=True):
            assert refused(outcome) == (400, "INVALID_REQUEST"), name
        created(far, outcomes[0])
        created(far, outcomes[-1])
        assert refused(await far.one(sent(999, currency="EUR"))) == (400, "UNSUPPORTED_CURRENCY")
        keyless = Forwardable("", sent().payload)
        assert refused(await far.one(keyless)) == (400, "MISSING_IDEMPOTENCY_KEY")
        assert refused(await far.one(sent(key="k" * 513))) == (400, "INVALID_REQUEST")
        assert await far.house.available(ALICE) == 200


async def test_a_metadata_of_null_is_refused(open_ledger: Open, database_url: str) -> None:
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        null = Forwardable("k", {**sent().payload, "metadata": None})
        assert refused(await far.one(null)) == (400, "INVALID_REQUEST")


async def test_outcomes_stand_in_the_order_of_what_was_sent(
    open_ledger: Open, database_url: str
) -> None:
    many = [
        sent(1),
        sent(2, account_id="acc_nobody"),
        sent(3, amount_minor="300"),
        sent(1),
        sent(4, amount_minor="zero"),
        sent(5, direction="refund", amount_minor="350"),
        sent(1, amount_minor="7"),
    ]
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        outcomes = await far.ingest(*many)
        kinds = [type(one) for one in outcomes]
        assert kinds == [Accepted, Refused, Accepted, Accepted, Refused, Accepted, Refused]
        assert outcomes[3] == Accepted(200, outcomes[0].settlement_id)  # type: ignore[union-attr]
        assert [refused(outcomes[n])[0] for n in (1, 4, 6)] == [404, 400, 409]
        assert await far.house.available(ALICE) == 50


async def test_a_call_that_was_given_up_is_settled_once_by_repeating_it(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        # The tail is locked, so the request is under way and cannot be answered.
        async with (
            held(database_url, "SELECT * FROM ledger_tail FOR UPDATE"),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(far.one, sent())
            await wait_for_locks(far.house.database, 1)
            nursery.cancel_scope.cancel()
        repeated = await far.one(sent())
        assert isinstance(repeated, Accepted)
        assert await far.one(sent()) == Accepted(200, repeated.settlement_id)
        assert await far.house.available(ALICE) == 100


async def test_repetitions_at_once_settle_once(open_ledger: Open, database_url: str) -> None:
    async with open_ledger(database_url) as far:
        await far.house.open_account()
        outcomes: list[LedgerOutcome] = []

        async def send(key: str) -> None:
            outcomes.append(await far.one(sent(key=key)))

        async with trio.open_nursery() as nursery:
            for number in range(24):
                nursery.start_soon(send, f"k{number % 3}")
        assert all(isinstance(one, Accepted) for one in outcomes)
        assert len({one.settlement_id for one in outcomes if isinstance(one, Accepted)}) == 1
        if far.faultless:
            assert [one.ledger_status for one in outcomes].count(201) == 1
        assert await far.house.available(ALICE) == 100
