"""Carrying leased rows to a ledger that is slow, silent, wrong or gone, and what is recorded.

The database is real. The ledger is an outside party, so the tests bring their own.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from attrs import define, field, frozen

from clawsettle.actors.settlement_forwarder import Attempt, SettlementForwarder
from clawsettle.actors.supervisor import Supervised
from clawsettle.domain.errors import Overloaded, ProviderError
from clawsettle.domain.forwarding import (
    Accepted,
    Forwardable,
    ForwardingState,
    LedgerOutcome,
    Refused,
    RetryPolicy,
    Standing,
    Unknown,
    read_answer,
)
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.settlement_outbox import SettlementOutbox

POLICY = RetryPolicy(base_s=15, max_s=300, attempts_max=3, age_max_s=86_400)
_ADD_ROW = """
    WITH event AS (
        INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
        VALUES ($1, 'payment_intent.succeeded', false, sha256('x'), 'forwarded')
    )
    INSERT INTO settlement_outbox (event_id, payload, state, attempts, due_at, lease_token)
    VALUES ($1, $2, $3, $4, now() + $5::double precision * interval '1 second',
            CASE WHEN $6::boolean THEN nextval('lease_token') END)
"""


def accepted(sent: Forwardable) -> LedgerOutcome:
    """Answer as a ledger does that has recorded what it was sent."""
    return read_answer(sent, 201, {"settlement": {**sent.payload, "id": f"set_{sent.key}"}})


@define(eq=False)
class TestLedger:
    """Answers at once, but for the events whose gates are shut; remembers what it was asked."""

    __test__ = False
    batch_max: int = 1
    answer: Callable[[Forwardable], LedgerOutcome] = accepted
    calls: list[list[str]] = field(factory=list)
    under_way: int = 0
    under_way_max: int = 0
    left_at: dict[str, float] = field(factory=dict)
    _gates: dict[str, trio.Event] = field(factory=dict)

    @property
    def asked(self) -> list[str]:
        return [event_id for call in self.calls for event_id in call]

    def shut(self, *event_ids: str) -> None:
        self._gates |= {event_id: trio.Event() for event_id in event_ids}

    def open(self, *event_ids: str) -> None:
        for event_id in event_ids or list(self._gates):
            self._gates.pop(event_id).set()

    async def ingest(self, settlements: Sequence[Forwardable]) -> Sequence[LedgerOutcome]:
        event_ids = [sent.key.removeprefix("stripe:event:") for sent in settlements]
        self.calls.append(event_ids)
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await trio.lowlevel.checkpoint()
            for gate in [self._gates[e] for e in event_ids if e in self._gates]:
                await gate.wait()
        finally:
            self.under_way -= 1
            self.left_at |= dict.fromkeys(event_ids, trio.current_time())
        return [self.answer(sent) for sent in settlements]


@frozen(eq=False)
class Bench:
    """A running forwarder and its database; ``add`` makes rows, ``send`` leases and starts them."""

    database: Database
    outbox: SettlementOutbox
    forwarder: SettlementForwarder
    supervised: Supervised

    async def add(
        self,
        *event_ids: str,
        payload: str | None = None,
        state: str = "pending",
        attempts: int = 0,
        due_in_s: float = 0.0,
        leased: bool = False,
    ) -> None:
        for event_id in event_ids:
            written = payload or json.dumps(_payload(event_id))
            await self.database.fetch(
                _ADD_ROW, event_id, written, state, attempts, due_in_s, leased
            )

    async def send(self, *event_ids: str) -> list[Attempt]:
        with self.forwarder.seating.reserve(len(event_ids)) as seats:
            rows = await self.outbox.claim(event_ids)
            taken = self.forwarder.take(
                seats, sorted(rows, key=lambda row: event_ids.index(row.event_id))
            )
        return [taken[event_id] for event_id in event_ids]

    async def row(self, event_id: str) -> Mapping[str, Any]:
        rows = await self.database.fetch(
            "SELECT * FROM settlement_outbox WHERE event_id = $1", event_id
        )
        return rows[0]

    async def states(self) -> dict[str, str]:
        rows = await self.database.fetch("SELECT event_id, state FROM settlement_outbox")
        return {row["event_id"]: row["state"] for row in rows}


@asynccontextmanager
async def bench(
    database_url: str,
    ledger: TestLedger,
    *,
    capacity: int = 100,
    in_flight_max: int = 10,
    attempt_timeout_s: float = 10,
    lease_s: float = 30,
    statement_timeout_s: float = 10,
) -> AsyncIterator[Bench]:
    """Run a forwarder alone, supervised; it is cut at the end."""
    async with (
        open_database(database_url, statement_timeout_s=statement_timeout_s) as database,
        trio.open_nursery() as nursery,
    ):
        outbox = SettlementOutbox(database, lease_s)
        forwarder = SettlementForwarder(
            outbox, ledger, POLICY, capacity, in_flight_max, attempt_timeout_s
        )
        supervised = Supervised(forwarder)
        await nursery.start(supervised.run)
        yield Bench(database, outbox, forwarder, supervised)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.005)


async def results(attempts: Sequence[Attempt]) -> list[Standing | None]:
    with trio.fail_after(10):
        return [await attempt.wait() for attempt in attempts]


async def states(attempts: Sequence[Attempt]) -> list[str | None]:
    return [None if one is None else str(one.state) for one in await results(attempts)]


def _payload(event_id: str) -> dict[str, object]:
    return {
        "provider": "stripe",
        "external_payment_id": f"pi_{event_id}",
        "direction": "payin",
        "status": "confirmed",
        "account_id": "acc_1",
        "amount_minor": "100",
        "currency": "USD",
    }


async def test_an_answer_is_recorded_with_what_the_ledger_said(database_url: str) -> None:
    async with bench(database_url, TestLedger()) as on:
        await on.add("evt_1")
        (result,) = await results(await on.send("evt_1"))
        assert result == Standing(ForwardingState.FORWARDED, None, 201, "set_stripe:event:evt_1")
        row = await on.row("evt_1")
        assert (row["state"], row["attempts"], row["ledger_status"]) == ("forwarded", 1, 201)
        assert row["settlement_id"] == "set_stripe:event:evt_1"
        assert (row["due_at"], row["lease_token"], row["last_error_code"]) == (None, None, None)
        assert row["forwarded_at"] is not None


async def test_one_slow_answer_holds_up_no_other(database_url: str) -> None:
    ledger = TestLedger()
    ledger.shut("evt_slow")
    async with bench(database_url, ledger) as on:
        await on.add("evt_slow", "evt_2", "evt_3")
        slow, *quick = await on.send("evt_slow", "evt_2", "evt_3")
        assert await states(quick) == ["forwarded"] * 2
        assert on.forwarder.attempt_of("evt_slow") is slow
        assert (await on.row("evt_slow"))["state"] == "pending"
        ledger.open("evt_slow")
        assert await states([slow]) == ["forwarded"]
        assert on.forwarder.attempt_of("evt_slow") is None


async def test_no_more_calls_are_under_way_than_allowed(database_url: str) -> None:
    ledger, names = TestLedger(), [f"evt_{number}" for number in range(12)]
    ledger.shut(*names)
    async with bench(database_url, ledger, in_flight_max=3) as on:
        await on.add(*names)
        attempts = await on.send(*names)
        await until(lambda: ledger.under_way == 3)
        assert ledger.asked == names[:3]
        for name in names:
            await until(lambda name=name: name in ledger.asked)  # type: ignore[misc]
            ledger.open(name)
        assert await states(attempts) == ["forwarded"] * 12
        assert ledger.under_way_max == 3


async def test_what_waits_together_goes_in_one_call_up_to_the_ledgers_batch(
    database_url: str,
) -> None:
    def one_refused(sent: Forwardable) -> LedgerOutcome:
        return Refused(404, "no") if sent.key.endswith("evt_3") else accepted(sent)

    ledger, names = TestLedger(3, one_refused), [f"evt_{number}" for number in range(7)]
    async with bench(database_url, ledger) as on:
        await on.add(*names)
        assert await states(await on.send(*names)) == [
            "failed" if name == "evt_3" else "forwarded" for name in names
        ]
        assert [len(call) for call in ledger.calls] == [3, 3, 1]
        assert ledger.asked == names


async def test_silence_is_unknown_and_is_tried_again_later(database_url: str) -> None:
    ledger = TestLedger()
    ledger.shut("evt_1")
    async with bench(database_url, ledger, attempt_timeout_s=0.1) as on:
        await on.add("evt_1")
        (result,) = await results(await on.send("evt_1"))
        assert result is not None
        assert (result.state, result.ledger_status) == (ForwardingState.FAILED, None)
        row = await on.row("evt_1")
        assert (row["state"], row["attempts"], row["lease_token"]) == ("failed", 1, None)
        assert row["last_error_code"] == "LEDGER_INGEST_FAILED"
        assert "in time" in row["last_error_message"]
        assert (row["ledger_status"], row["due_at"]) == (None, result.due_at)
        # The first wait is 15 s, less at most a fifth.
        assert 10 < (row["due_at"] - datetime.now(UTC)).total_seconds() <= 15


async def test_the_wait_doubles_and_the_last_attempt_is_the_end(database_url: str) -> None:
    ledger = TestLedger(answer=lambda _sent: Unknown("nobody there"))
    async with bench(database_url, ledger) as on:
        await on.add("evt_1", attempts=1)
        await on.send("evt_1")
        await until(lambda: on.forwarder.attempt_of("evt_1") is None)
        wait = ((await on.row("evt_1"))["due_at"] - datetime.now(UTC)).total_seconds()
        assert 20 < wait <= 30
        await on.database.fetch("UPDATE settlement_outbox SET due_at = now()")
        assert await states(await on.send("evt_1")) == ["dead"]
        row = await on.row("evt_1")
        assert (row["attempts"], row["blame"], row["due_at"]) == (3, "target", None)


async def test_a_row_past_its_age_is_dead_by_its_next_failure_and_not_before(
    database_url: str,
) -> None:
    ledger = TestLedger(answer=lambda _sent: Unknown("nobody there"))
    async with bench(database_url, ledger) as on:
        await on.add("evt_1", "evt_2", attempts=1)
        await on.database.fetch(
            "UPDATE settlement_outbox SET opened_at = now() - interval '1 day'"
            " WHERE event_id = 'evt_1'"
        )
        assert await states(await on.send("evt_1", "evt_2")) == ["dead", "failed"]
        row = await on.row("evt_1")
        assert row["last_error_message"].endswith("age_max_s (86400) seconds")
        ledger.answer = accepted
        await on.add("evt_3")
        await on.database.fetch("UPDATE settlement_outbox SET opened_at = 'epoch'")
        assert await states(await on.send("evt_3")) == ["forwarded"]


@pytest.mark.parametrize(
    ("outcome", "state", "blame", "code", "ledger_status"),
    [
        (Refused(400, "no"), "dead", "us", "LEDGER_INGEST_FAILED", 400),
        (Refused(409, "no"), "dead", "target", "LEDGER_INGEST_FAILED", 409),
        (Refused(404, "no"), "failed", None, "LEDGER_INGEST_FAILED", 404),
        (Refused(503, "no"), "failed", None, "LEDGER_INGEST_FAILED", 503),
        (Unknown("what?", 200), "failed", None, "LEDGER_INGEST_FAILED", 200),
        (Accepted(200, "set_1"), "forwarded", None, None, 200),
    ],
)
async def test_each_answer_has_its_row(
    database_url: str,
    outcome: LedgerOutcome,
    state: str,
    blame: str | None,
    code: str | None,
    ledger_status: int,
) -> None:
    async with bench(database_url, TestLedger(answer=lambda _sent: outcome)) as on:
        await on.add("evt_1")
        assert await states(await on.send("evt_1")) == [state]
        row = await on.row("evt_1")
        assert (row["state"], row["blame"], row["last_error_code"]) == (state, blame, code)
        assert row["ledger_status"] == ledger_status


async def test_a_ledger_that_raises_fails_its_own_attempt_only(database_url: str) -> None:
    def answer(sent: Forwardable) -> LedgerOutcome:
        if sent.key.endswith("evt_1"):
            raise KeyError("a bug, with a secret")
        if sent.key.endswith("evt_2"):
            raise ProviderError("out of service")
        return accepted(sent)

    async with bench(database_url, TestLedger(answer=answer)) as on:
        await on.add("evt_1", "evt_2", "evt_3")
        attempts = await on.send("evt_1", "evt_2", "evt_3")
        assert await states(attempts) == ["failed", "failed", "forwarded"]
        assert "secret" not in (await on.row("evt_1"))["last_error_message"]
        assert "out of service" in (await on.row("evt_2"))["last_error_message"]


async def test_a_success_that_is_not_about_our_payment_is_none(database_url: str) -> None:
    ours = _payload("evt_1")
    settlements: list[object] = [None, {}, {**ours, "id": ""}, {**ours, "id": 7}]
    settlements += [{**ours, "id": "set_\0"}, {**ours, "id": "set_1", "amount_minor": "101"}]
    settlements += [{**_payload("evt_2"), "id": "set_1"}]
    bodies: list[object] = [None, [], *({"settlement": settlement} for settlement in settlements)]
    ledger = TestLedger()
    async with bench(database_url, ledger) as on:
        await on.add("evt_1")
        for body in bodies:
            ledger.answer = lambda sent, body=body: read_answer(sent, 200, body)  # type: ignore[misc]
            assert await states(await on.send("evt_1")) == ["failed"], body
            row = await on.row("evt_1")
            assert (row["ledger_status"], row["settlement_id"]) == (200, None)
            await on.database.fetch("UPDATE settlement_outbox SET due_at = now(), attempts = 0")


@pytest.mark.parametrize("payload", ["{broken", "[]", "null", '"text"'])
async def test_a_payload_that_cannot_be_read_is_never_sent(database_url: str, payload: str) -> None:
    ledger = TestLedger(5)
    async with bench(database_url, ledger) as on:
        await on.add("evt_1", payload=payload)
        await on.add("evt_2")
        assert await states(await on.send("evt_1", "evt_2")) == ["dead", "forwarded"]
        assert ledger.asked == ["evt_2"]
        row = await on.row("evt_1")
        assert (row["blame"], row["last_error_code"]) == ("poison", "INTERNAL_ERROR")


async def test_a_result_that_storage_refuses_takes_no_other_with_it(database_url: str) -> None:
    def answer(sent: Forwardable) -> LedgerOutcome:
        return Accepted(201, "set_\0") if sent.key.endswith("evt_2") else accepted(sent)

    async with bench(database_url, TestLedger(3, answer)) as on:
        await on.add("evt_1", "evt_2", "evt_3")
        attempts = await on.send("evt_1", "evt_2", "evt_3")
        assert await states(attempts) == ["forwarded", None, "forwarded"]
        assert (await on.row("evt_2"))["state"] == "pending"


async def test_closing_takes_nothing_more_and_finishes_what_it_has(database_url: str) -> None:
    ledger = TestLedger()
    ledger.shut("evt_1")
    async with bench(database_url, ledger, in_flight_max=1) as on:
        await on.add("evt_1", "evt_2", "evt_3")
        attempts = await on.send("evt_1", "evt_2")
        on.forwarder.close()
        with pytest.raises(Overloaded):
            await on.send("evt_3")
        assert on.forwarder.seating.room == 98
        assert not on.supervised.ended.is_set()
        ledger.open("evt_1")
        with trio.fail_after(10):
            await on.supervised.stop()
        assert await states(attempts) == ["forwarded"] * 2
        assert await on.states() == {
            "evt_1": "forwarded",
            "evt_2": "forwarded",
            "evt_3": "pending",
        }
