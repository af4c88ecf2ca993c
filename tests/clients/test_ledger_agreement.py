"""The ledger in process and the ledger over HTTP say the same of the same history."""

from collections.abc import Mapping, Sequence
from typing import Any

import trio
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.clients.ledger import Ledger
from clawsettle.domain.forwarding import Forwardable, Refused
from clawsettle.domain.ledger_orders import (
    AnotherTransfer,
    LedgerEvent,
    TransferOrder,
    TransferOutcome,
)
from clawsettle.domain.money import MINOR_MAX
from clawsettle.domain.transfers import BUCKETS, Side
from tests.clients.ledgers import in_process, over_http, sent, verdicts

DIDS = ("did:key:alice", "did:key:bob")
# The world is small, so that settlements meet each other; each field is sometimes odd.
FIELDS: dict[str, list[Any]] = {
    "provider": [*["stripe"] * 9, "adyen", " stripe ", "", None, "a\0b", "\ud800"],
    "external_payment_id": [*[f"pi_{n}" for n in range(4)] * 3, " ", 7, "größe"],
    "direction": [*["payin", "payin", "refund", "payout"] * 4, "PAYIN", None],
    "status": [*["confirmed", "confirmed", "failed", "pending", "reversed"] * 4, "paid", True],
    "account_id": [*["acc_32ca986a", "acc_61720de1"] * 6, "acc_nobody", "external:stripe:USD", ""],
    "amount_minor": [*["100", "100", "250", "60"] * 4, "0100", str(MINOR_MAX), "0", 100, "1.0"],
    "currency": [*["USD"] * 12, "usd", " USD ", "EUR", "US", None],
}
OPTIONAL: dict[str, list[Any]] = {
    "metadata": [{}, {"a": 1, "b": [None, True, "größe"]}, {"a": 1.5}, None, [], {"a": "\0"}],
    "rail": ["card", " ", 7, None, "x" * 256],
    "provider_updated_at": ["2026-02-11T00:00:00.000Z", "2026-02-12T00:00:00.000Z", "soon", 1],
    "settled_at": ["2026-02-11T00:00:00.000Z", None],
}
PAYLOADS = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in FIELDS.items()},
    optional={name: st.sampled_from(values) for name, values in OPTIONAL.items()},
)
KEYS = st.sampled_from([*[f"stripe:event:evt_{n}" for n in range(30)], "", "k" * 513])
HISTORIES = st.lists(
    st.lists(st.builds(Forwardable, KEYS, PAYLOADS), min_size=1, max_size=4), max_size=25
)
PAYOUT_KEYS = [
    f"payout:{stage}:pout_{n}" for stage in ("lock", "finalize", "rollback") for n in range(3)
]
PLACES = [*DIDS * 4, "clearing:x", "acc_32ca986a", "acc_nobody", "nobody", "clearing:", "größe"]
SIDES = st.builds(Side.of, st.sampled_from(PLACES), st.sampled_from("AAAHHH" + "".join(BUCKETS)))
ORDERS = st.builds(
    TransferOrder,
    st.sampled_from([*PAYOUT_KEYS * 2, "k/1", "", "k" * 513]),
    SIDES,
    SIDES,
    st.sampled_from([100, 100, 100, 250, 0, MINOR_MAX, 2**63]),
    st.sampled_from([*["USD"] * 9, "usd", "EUR"]),
    st.sampled_from([{}, {"source": "ops:retry"}, {"note": "größe"}, {"n": 1.5}]),
)


@settings(deadline=None, max_examples=20)
@given(history=HISTORIES)
def test_the_same_history_has_the_same_outcomes(
    postgres: Any, history: Sequence[Sequence[Forwardable]]
) -> None:
    urls = [postgres.server.dsn_of(postgres.create_database("migrated")) for _ in range(2)]
    trio.run(_compare, history, *urls)


async def _compare(history: Sequence[Sequence[Forwardable]], near_url: str, far_url: str) -> None:
    async with in_process(near_url) as near, over_http(far_url) as far:
        for did in DIDS:
            await near.house.open_account(did)
            await far.house.open_account(did)
        for batch in history:
            outcomes = await near.ledger.ingest(batch)
            assert verdicts(outcomes) == verdicts(await far.ledger.ingest(batch))
        for account_id in ("acc_32ca986a", "acc_61720de1"):
            assert await near.house.available(account_id) == await far.house.available(account_id)


@settings(deadline=None, max_examples=10)
@given(orders=st.lists(ORDERS, max_size=60))
def test_the_same_transfers_have_the_same_outcomes(
    postgres: Any, orders: Sequence[TransferOrder]
) -> None:
    urls = [postgres.server.dsn_of(postgres.create_database("migrated")) for _ in range(2)]
    trio.run(_compare_transfers, orders, *urls)


async def _compare_transfers(orders: Sequence[TransferOrder], near_url: str, far_url: str) -> None:
    async with in_process(near_url) as near, over_http(far_url) as far:
        for ledger in (near, far):
            await ledger.house.open_account(DIDS[0])
            await ledger.one(sent(amount_minor="1000"))
        for order in orders:
            outcomes = [await ledger.ledger.transfer(order) for ledger in (near, far)]
            assert len({_said(one) for one in outcomes}) == 1, outcomes
        for order in orders:
            assert await _found(near.ledger, order) == await _found(far.ledger, order)
        for account_id in ("acc_32ca986a", "acc_61720de1", "acc_nobody"):
            assert await near.account(account_id) == await far.account(account_id)
        keys = sorted({order.key for order in orders if order.key})
        found = [await ledger.ledger.events_by_key(keys) for ledger in (near, far)]
        assert _told(found[0]) == _told(found[1])


def _said(outcome: TransferOutcome) -> tuple[object, ...]:
    """What of an outcome decides what is done next; an event has an id of its own in each book."""
    if isinstance(outcome, Refused):
        return outcome.ledger_status, outcome.code, outcome.available_minor
    return (type(outcome).__name__,)


async def _found(ledger: Ledger, order: TransferOrder) -> str:
    try:
        return type(await ledger.transferred(order)).__name__
    except AnotherTransfer as error:
        return error.message.rpartition(" ")[2]


def _told(events: Mapping[str, LedgerEvent]) -> dict[str, LedgerEvent]:
    return {key: evolve(event, event_id="", created_at=None) for key, event in events.items()}
