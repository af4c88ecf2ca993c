"""The main path: a signed event reaches the ledger once, whatever is sent and however often."""

import json
import time
from typing import Any

import httpx
import pytest
import trio

from clawsettle.actors.settlement_forwarder import SettlementForwarder
from clawsettle.sandbox.stripe_events import signature_header, stripe_event
from tests.house import House, open_house, payin, plan, settings


async def test_a_signed_payin_is_answered_in_the_contracts_shape(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        answer = await house.deliver(payin("evt_1", account_id))
        assert answer.status_code == 200
        body = answer.json()
        assert list(body) == [
            "ok",
            "deduped",
            "event_id",
            "event_type",
            "idempotency_key",
            "forwarded_to_ledger",
            "ledger_status",
            "settlement_id",
        ]
        assert body["idempotency_key"] == "stripe:event:evt_1"
        assert (body["deduped"], body["forwarded_to_ledger"], body["ledger_status"]) == (
            False,
            True,
            201,
        )
        (settlement,) = await house.settlements("pi_evt_1")
        assert settlement["id"] == body["settlement_id"]
        assert settlement["metadata"] == {
            "stripe_event_id": "evt_1",
            "stripe_event_type": "payment_intent.succeeded",
            "stripe_object_id": "pi_evt_1",
        }
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["x-clawsettle-version"] == "0.1.0"


async def test_a_replay_is_deduped_and_moves_nothing(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        first = (await house.deliver(payin("evt_1", account_id))).json()
        second = (await house.deliver(payin("evt_1", account_id))).json()
        assert second == {**first, "deduped": True}
        assert await house.available(account_id) == 2500


async def test_sixty_four_deliveries_at_once_are_one_posting(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        answers: list[httpx.Response] = []

        async def deliver() -> None:
            answers.append(await house.deliver(payin("evt_1", account_id)))

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(deliver)
        assert [answer.status_code for answer in answers] == [200] * 64
        assert [answer.json()["deduped"] for answer in answers].count(False) == 1
        assert all(answer.json()["forwarded_to_ledger"] for answer in answers)
        assert await house.available(account_id) == 2500
        assert len(await house.database.fetch("SELECT 1 FROM ledger_event")) == 1


async def test_deliveries_to_two_daemons_at_once_are_one_posting(database_url: str) -> None:
    async with open_house(database_url) as one, open_house(database_url) as other:
        account_id = await one.open_account()
        answers: list[httpx.Response] = []

        async def deliver(house: House) -> None:
            answers.append(await house.deliver(payin("evt_1", account_id)))

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(deliver, one)
                nursery.start_soon(deliver, other)
        assert [answer.status_code for answer in answers] == [200] * 32
        assert [answer.json()["deduped"] for answer in answers].count(False) == 1
        assert all(answer.json()["forwarded_to_ledger"] for answer in answers)
        assert await one.available(account_id) == 2500


async def test_two_hundred_payins_to_one_account_add_up(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        limit = trio.CapacityLimiter(64)

        async def deliver(number: int) -> None:
            async with limit:
                event = payin(f"evt_{number}", account_id, amount_minor=number)
                assert (await house.deliver(event)).status_code == 200

        async with trio.open_nursery() as nursery:
            for number in range(1, 201):
                nursery.start_soon(deliver, number)
        assert await house.available(account_id) == sum(range(1, 201))
        verified = (await house.ledger.get("/events/verify")).json()
        assert verified == {"valid": True, "errors": [], "eventsChecked": 200}


async def test_an_unknown_account_is_retried_and_credited_once(database_url: str) -> None:
    async with open_house(database_url) as house:
        refused = await house.deliver(payin("evt_1", "acc_32ca986a"))
        assert refused.status_code == 502
        body = refused.json()
        assert body["code"] == "LEDGER_INGEST_FAILED"
        details = body["details"]
        assert list(details) == ["event_id", "ledger_status", "retry_scheduled", "next_retry_at"]
        assert (details["ledger_status"], details["retry_scheduled"]) == (404, True)
        row = await house.row("evt_1")
        assert (row["state"], row["attempts"], row["last_error_code"]) == (
            "failed",
            1,
            "LEDGER_INGEST_FAILED",
        )
        assert await house.open_account("did:key:alice") == "acc_32ca986a"
        assert await house.retry(event_id="evt_1") == _counts(0, 0, 0)
        assert await house.retry(limit=20, force=True, event_id="evt_1") == _counts(1, 1, 0)
        assert await house.retry(limit=20, force=True, event_id="evt_1") == _counts(0, 0, 0)
        replay = (await house.deliver(payin("evt_1", "acc_32ca986a"))).json()
        row = await house.row("evt_1")
        assert (replay["deduped"], replay["forwarded_to_ledger"]) == (True, True)
        assert replay["settlement_id"] == row["settlement_id"]
        assert (row["state"], row["attempts"], row["last_error_code"]) == ("forwarded", 2, None)
        assert await house.available("acc_32ca986a") == 2500


async def test_a_redelivery_before_its_time_asks_the_ledger_nothing(database_url: str) -> None:
    async with open_house(database_url) as house:
        first = await house.deliver(payin("evt_1", "acc_nobody"))
        again = await house.deliver(payin("evt_1", "acc_nobody"))
        assert (again.status_code, again.json()) == (502, first.json())
        assert (await house.row("evt_1"))["attempts"] == 1


async def test_a_redelivery_when_it_is_due_attempts_it(database_url: str) -> None:
    async with open_house(database_url, settings(forwarding={"poll_s": 3600})) as house:
        await house.deliver(payin("evt_1", "acc_32ca986a"))
        await house.open_account()
        await house.database.fetch("UPDATE settlement_outbox SET due_at = now()")
        answer = (await house.deliver(payin("evt_1", "acc_32ca986a"))).json()
        assert (answer["deduped"], answer["forwarded_to_ledger"]) == (False, True)


async def test_what_is_due_is_attempted_without_anybody_asking(database_url: str) -> None:
    quick = settings(forwarding={"retry_base_s": 1, "retry_max_s": 1, "poll_s": 0.05})
    async with open_house(database_url, quick) as house:
        assert (await house.deliver(payin("evt_1", "acc_32ca986a"))).status_code == 502
        await house.open_account()
        with trio.fail_after(10):
            while (await house.row("evt_1"))["state"] != "forwarded":  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await house.available("acc_32ca986a") == 2500


async def test_a_refusal_that_time_cannot_mend_is_dead_at_once(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        other_id = await house.open_account("did:key:bob")
        await house.deliver(payin("evt_1", account_id))
        contradiction = stripe_event(
            plan("payment_intent.succeeded", "evt_2", "pi_evt_1", other_id)
        )
        first = await house.deliver(contradiction)
        assert (first.status_code, first.json()) == (
            200,
            {
                "ok": True,
                "deduped": False,
                "event_id": "evt_2",
                "event_type": "payment_intent.succeeded",
                "idempotency_key": "stripe:event:evt_2",
                "forwarded_to_ledger": False,
                "ledger_status": 409,
            },
        )
        row = await house.row("evt_2")
        assert (row["state"], row["blame"], row["due_at"]) == ("dead", "target", None)
        again = await house.deliver(contradiction)
        assert (again.status_code, again.json()) == (200, {**first.json(), "deduped": True})
        assert await house.row("evt_2") == row
        assert await house.retry(event_id="evt_2") == _counts(0, 0, 0)
        assert await house.retry(event_id="evt_2", force=True) == _counts(1, 0, 1)


async def test_a_refund_that_overtakes_its_payment_waits_for_it(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        refund = stripe_event(plan("charge.refunded", "evt_r", "ch_1", account_id))
        refused = await house.deliver(refund)
        assert refused.json()["details"]["ledger_status"] == 422
        assert refused.json()["details"]["retry_scheduled"] is True
        await house.deliver(payin("evt_p", account_id))
        assert await house.retry(event_id="evt_r", force=True) == _counts(1, 1, 0)
        assert await house.available(account_id) == 0


async def test_a_corrupt_row_is_dead_and_holds_up_nobody(database_url: str) -> None:
    async with open_house(database_url, settings(forwarding={"poll_s": 3600})) as house:
        for event_id in ("evt_1", "evt_2", "evt_3"):
            await house.deliver(payin(event_id, "acc_32ca986a"))
        await house.open_account()
        await house.database.fetch(
            "UPDATE settlement_outbox SET payload = '{broken' WHERE event_id = 'evt_2'"
        )
        assert await house.retry(force=True) == _counts(3, 2, 1)
        row = await house.row("evt_2")
        assert (row["state"], row["blame"], row["last_error_code"]) == (
            "dead",
            "poison",
            "INTERNAL_ERROR",
        )
        assert await house.available("acc_32ca986a") == 5000


async def test_an_ignored_type_is_recorded_once(database_url: str) -> None:
    async with open_house(database_url) as house:
        event = stripe_event(plan("charge.dispute.created", "evt_d", "du_1", "acc_1"))
        expected = {
            "ok": True,
            "deduped": False,
            "event_id": "evt_d",
            "event_type": "charge.dispute.created",
            "idempotency_key": "stripe:event:evt_d",
            "forwarded_to_ledger": False,
        }
        assert (await house.deliver(event)).json() == expected
        assert (await house.deliver(event)).json() == {**expected, "deduped": True}
        assert await house.database.fetch("SELECT 1 FROM settlement_outbox") == []


async def test_committed_acknowledgement_answers_right_after_the_commit(database_url: str) -> None:
    committed = settings(forwarding={"acknowledge": "committed"})
    async with open_house(database_url, committed) as house:
        answer = await house.deliver(payin("evt_1", "acc_32ca986a"))
        assert answer.status_code == 200
        body = answer.json()
        assert (body["deduped"], body["forwarded_to_ledger"], body["retry_scheduled"]) == (
            False,
            False,
            True,
        )
        assert body["next_retry_at"].endswith("Z")
        await _until_failed(house, "evt_1")
        await house.open_account()
        again = (await house.deliver(payin("evt_1", "acc_32ca986a"))).json()
        assert (again["deduped"], again["retry_scheduled"]) == (True, True)
        assert await house.retry(event_id="evt_1", force=True) == _counts(1, 1, 0)
        last = (await house.deliver(payin("evt_1", "acc_32ca986a"))).json()
        assert (last["forwarded_to_ledger"], "retry_scheduled" in last) == (True, False)


async def test_a_committed_event_counts_once_however_often_it_is_tried(database_url: str) -> None:
    committed = settings(forwarding={"acknowledge": "committed", "poll_s": 3600})
    async with open_house(database_url, committed) as house:
        said = [(await house.deliver(payin("evt_1", "acc_nobody"))).json()["deduped"]]
        for _ in range(2):
            await _until_failed(house, "evt_1")
            await house.database.fetch("UPDATE settlement_outbox SET due_at = now()")
            said.append((await house.deliver(payin("evt_1", "acc_nobody"))).json()["deduped"])
        assert said == [False, True, True]
        await _until_failed(house, "evt_1")
        assert (await house.row("evt_1"))["attempts"] == 3


async def test_a_duplicate_that_starts_the_first_attempt_is_a_duplicate(database_url: str) -> None:
    async with open_house(database_url, settings(forwarding={"poll_s": 3600})) as house:
        account_id = await house.open_account()
        (forwarder,) = [
            one.actor for one in house.parts.actors if one.actor.name == "settlement_forwarder"
        ]
        assert isinstance(forwarder, SettlementForwarder)
        forwarder.seating.when_roomy = lambda: None
        said: list[bool] = []

        async def deliver() -> None:
            said.append((await house.deliver(payin("evt_1", account_id))).json()["deduped"])

        async with trio.open_nursery() as nursery:
            with forwarder.seating.reserve(forwarder.seating.room):
                nursery.start_soon(deliver)
                with trio.fail_after(5):
                    while not await house.database.fetch(  # noqa: ASYNC110 - rows tell nobody
                        "SELECT 1 FROM settlement_outbox"
                    ):
                        await trio.sleep(0.01)
            nursery.start_soon(deliver)
        assert sorted(said) == [False, True]
        assert await house.available(account_id) == 2500


async def test_a_ledger_that_hangs_is_answered_for_within_the_deadline(database_url: str) -> None:
    bounded = settings(
        forwarding={"answer_deadline_s": 0.5, "attempt_timeout_s": 1.4, "lease_s": 3.0}
    )
    async with open_house(database_url, bounded) as house:
        account_id = await house.open_account()
        async with _held_tail(house):
            begun = trio.current_time()
            answer = await house.deliver(payin("evt_1", account_id))
            assert trio.current_time() - begun < 1.5
            assert answer.status_code == 502
            assert answer.json()["details"]["retry_scheduled"] is True
            assert "ledger_status" not in answer.json()["details"]
        with trio.fail_after(20):
            while (await house.row("evt_1"))["state"] == "pending":  # noqa: ASYNC110
                await trio.sleep(0.02)
        await house.retry(force=True)
        assert await house.available(account_id) == 2500


async def test_another_body_under_a_known_event_is_flagged_and_not_applied(
    database_url: str,
) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        await house.deliver(payin("evt_1", account_id))
        other = await house.deliver(payin("evt_1", account_id, amount_minor=9))
        assert other.json()["deduped"] is True
        assert await house.available(account_id) == 2500
        (intake,) = [s.actor for s in house.parts.actors if s.actor.name == "webhook_intake"]
        assert intake.statistics()["mismatch_count"] == 1  # type: ignore[attr-defined]


async def test_more_deliveries_than_seats_are_all_forwarded(database_url: str) -> None:
    tight = settings(forwarding={"mailbox_max": 3})
    async with open_house(database_url, tight) as house:
        account_id = await house.open_account()
        answers: list[httpx.Response] = []

        async def deliver(number: int) -> None:
            answer = await house.deliver(payin(f"evt_{number}", account_id))
            while answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                await trio.sleep(0.01)
                answer = await house.deliver(payin(f"evt_{number}", account_id))
            answers.append(answer)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(deliver, number)
        assert [answer.status_code for answer in answers] == [200] * 40
        assert await house.available(account_id) == 40 * 2500


async def test_a_database_that_stalls_answers_503_and_stalls_nobody_else(
    database_url: str,
) -> None:
    bounded = settings(forwarding={"answer_deadline_s": 0.5})
    async with open_house(database_url, bounded) as house, open_house(database_url) as other:
        answers: list[httpx.Response] = []

        async def lock(transaction: Any) -> None:
            await transaction.fetch("LOCK TABLE stripe_event IN ACCESS EXCLUSIVE MODE")
            await transaction.fetch("SELECT pg_sleep(30)")

        async def deliver(number: int) -> None:
            answers.append(await house.deliver(payin(f"evt_{number}", "acc_1")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.database.transaction, lock)
            with trio.fail_after(5):
                while not await _is_locked(house):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            async with trio.open_nursery() as deliveries:
                for number in range(100):
                    deliveries.start_soon(deliver, number)
                begun = trio.current_time()
                assert (await house.settle.get("/health")).status_code == 200
                assert trio.current_time() - begun < 0.5
            nursery.cancel_scope.cancel()
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["retry-after"] == "1" for answer in answers)


async def _is_locked(house: House) -> bool:
    return bool(
        await house.database.fetch(
            "SELECT 1 FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
            " WHERE relname = 'stripe_event' AND mode = 'AccessExclusiveLock' AND granted"
        )
    )


async def test_an_event_that_maps_to_nothing_is_refused_and_not_stored(database_url: str) -> None:
    async with open_house(database_url) as house:
        event = payin("evt_1", " ")
        for _ in range(2):
            answer = await house.deliver(event)
            assert answer.status_code == 422
            assert answer.json()["code"] == "INVALID_EVENT_PAYLOAD"
            assert answer.json()["details"] == {"field": "data.object.metadata.account_id"}
        assert await house.database.fetch("SELECT 1 FROM stripe_event") == []


async def test_quarantine_acknowledges_what_cannot_be_mapped(database_url: str) -> None:
    lenient = settings(stripe={"unmappable": "quarantine"})
    async with open_house(database_url, lenient) as house:
        answer = await house.deliver(payin("evt_1", " "))
        assert (answer.status_code, answer.json()["forwarded_to_ledger"]) == (200, False)
        (row,) = await house.database.fetch("SELECT * FROM stripe_event")
        assert row["disposition"] == "quarantined"
        assert json.loads(row["quarantined_body"])["id"] == "evt_1"


async def test_a_quarantined_event_comes_back_once_it_maps(database_url: str) -> None:
    narrow = settings(stripe={"unmappable": "quarantine"})
    wide = settings(stripe={"unmappable": "quarantine", "currencies": ("USD", "EUR")})
    async with open_house(database_url, narrow) as house:
        account_id = await house.open_account()
        event = payin("evt_1", account_id, currency="eur")
        assert (await house.deliver(event)).json()["deduped"] is False
        assert (await house.deliver(event)).json()["deduped"] is True
    async with open_house(database_url, wide) as house:
        # The embedded book keeps USD, so the ledger refuses: what counts is that it was asked.
        answer = await house.deliver(event)
        assert answer.json()["ledger_status"] == 400
        (row,) = await house.database.fetch("SELECT * FROM stripe_event")
        assert (row["disposition"], row["quarantined_body"]) == ("forwarded", None)


async def test_a_recorded_event_is_replayed_even_when_it_no_longer_maps(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        await house.deliver(payin("evt_1", account_id))
        replay = await house.deliver(payin("evt_1", account_id, currency="eur"))
        assert (replay.status_code, replay.json()["deduped"]) == (200, True)


@pytest.mark.parametrize(
    ("environment", "allow", "livemode", "status"),
    [
        ("staging", False, True, 422),
        ("staging", True, True, 422),
        ("staging", False, False, 200),
        ("production", False, True, 200),
        ("production", False, False, 422),
        ("production", True, False, 200),
        ("production", True, None, 422),
    ],
)
async def test_livemode_is_judged_by_the_environment(
    database_url: str, environment: str, allow: bool, livemode: bool | None, status: int
) -> None:
    configured = settings(
        stripe={"environment": environment, "allow_testmode_in_production": allow}
    )
    async with open_house(database_url, configured) as house:
        account_id = await house.open_account()
        answer = await house.deliver(payin("evt_1", account_id, livemode=livemode))
        assert answer.status_code == status
        if status == 422:
            assert answer.json()["code"] == "LIVEMODE_MISMATCH"
            assert answer.json()["details"]["event_livemode"] is livemode
            assert await house.database.fetch("SELECT 1 FROM stripe_event") == []


def _with(change: Any) -> bytes:
    event: Any = payin("evt_1", "acc_32ca986a")
    change(event)
    return json.dumps(event).encode()


def _set(event: Any, name: str, value: object) -> None:
    event["data"]["object"][name] = value


_PLAIN = json.dumps(payin("evt_1", "acc_32ca986a")).encode()
_HOSTILE = {
    "beyond 63 bits": _with(lambda e: _set(e, "amount_received", 2**63)),
    "beyond 64 bits": _with(lambda e: _set(e, "amount_received", 12345678901234567890123)),
    "a fraction": _with(lambda e: _set(e, "amount_received", 10.5)),
    "a float past exactness": _with(lambda e: _set(e, "amount_received", 1e20)),
    "nothing": _with(lambda e: _set(e, "amount_received", 0)),
    "a negative amount": _with(lambda e: _set(e, "amount_received", -1)),
    "a boolean": _with(lambda e: _set(e, "amount_received", True)),
    "NaN": _with(lambda e: _set(e, "amount_received", float("nan"))),
    "20,000 brackets": b'{"id":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "a byte order mark": b"\xef\xbb\xbf" + _PLAIN,
    "bytes that are not UTF-8": _PLAIN.replace(b"evt_1", b"evt_\xff"),
    "a lone surrogate": _PLAIN.replace(b"evt_1", b"evt_\\ud800"),
    "a NUL": _PLAIN.replace(b"evt_1", b"evt_\\u0000"),
    "an id no header can carry": _with(lambda e: e.update(id="evt_\u00e9")),
    "an endless id": _with(lambda e: e.update(id="e" * 300)),
    "no body": b"",
    "an array": b"[]",
    "a four-letter currency": _with(lambda e: _set(e, "currency", "usdt")),
}


@pytest.mark.parametrize("body", _HOSTILE.values(), ids=_HOSTILE.keys())
async def test_hostile_bodies_have_a_clear_answer_and_store_nothing(
    database_url: str, body: bytes
) -> None:
    async with open_house(database_url) as house:
        answer = await house.deliver(body)
        assert answer.status_code in (400, 422)
        assert answer.json()["code"] in ("INVALID_REQUEST", "INVALID_EVENT_PAYLOAD")
        assert await house.database.fetch("SELECT 1 FROM stripe_event") == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "v1=00",
        "t=1739290005",
        "t=" + "9" * 400 + ",v1=00",
        "t=1,v1=00",
        f"t={int(time.time())},v1=deadbeef",
        f"t={int(time.time())},v1=\xe9",
    ],
)
async def test_unsigned_requests_cause_no_statement(
    postgres: Any, database_name: str, header: str
) -> None:
    still = {"poll_s": 3600}
    quiet = settings(forwarding=still, netting=still, loss_events=still)
    url = postgres.server.dsn_of(database_name)
    async with open_house(url, quiet) as house:
        with trio.fail_after(10):
            # The first looks, of settlements, netting, loss events and the watch of those, are
            # over when they are in the log.
            while (before := len(postgres.statements(database_name))) < 4:  # noqa: ASYNC110
                await trio.sleep(0.01)
        body = json.dumps(payin("evt_1", "acc_1")).encode()
        for _ in range(20):
            answer = await house.settle.post(
                "/v1/stripe/webhook",
                content=body,
                headers={b"stripe-signature": header.encode("latin-1")},
            )
            assert answer.status_code == 401
            assert answer.json()["code"] == "SIGNATURE_INVALID"
        oversized = await house.settle.post("/v1/stripe/webhook", content=b" " * 2_000_000)
        assert oversized.status_code == 413
        assert len(postgres.statements(database_name)) == before
        await house.database.fetch("SELECT 'the log is read'")
        assert len(postgres.statements(database_name)) == before + 1


async def test_two_secrets_are_valid_during_a_rotation(database_url: str) -> None:
    from clawsettle.config import Secret

    both = settings(stripe={"webhook_secrets": (Secret("whsec_old"), Secret("whsec_new"))})
    async with open_house(database_url, both) as house:
        account_id = await house.open_account()
        for number, secret in enumerate(("whsec_old", "whsec_new", "whsec_gone")):
            answer = await house.deliver(payin(f"evt_{number}", account_id), secret=secret)
            assert answer.status_code == (401 if secret == "whsec_gone" else 200)


async def test_deliveries_are_logged_once_verified(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        await house.deliver(payin("evt_1", account_id))
        await house.deliver(payin("evt_2", "acc_nobody"))
        await house.deliver(b"{}")
        await house.deliver(payin("evt_3", account_id), header="t=1,v1=00")
        recorder = house.parts.actors[-1]
        await recorder.stop()
        rows = await house.database.fetch("SELECT * FROM webhook_delivery_log ORDER BY received_at")
        assert [(row["event_type"], row["status"], row["error_code"]) for row in rows] == [
            ("payment_intent.succeeded", "success", None),
            ("payment_intent.succeeded", "failed", "LEDGER_INGEST_FAILED"),
            ("unknown", "failed", "INVALID_REQUEST"),
        ]
        assert rows[0]["idempotency_key"] == "stripe:event:evt_1"
        assert rows[0]["delivery_id"].startswith("dlv_")


async def _until_failed(house: House, event_id: str) -> None:
    with trio.fail_after(10):
        while True:
            row = await house.row(event_id)
            if row["state"] == "failed" and row["lease_token"] is None:
                return
            await trio.sleep(0.01)


def _held_tail(house: House) -> Any:
    """Hold the lock that every ledger commit needs, from a connection of its own."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def held() -> Any:
        async def hold(transaction: Any) -> None:
            await transaction.fetch("SELECT 1 FROM ledger_tail FOR UPDATE")
            await transaction.fetch("SELECT pg_sleep(30)")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.database.transaction, hold)
            with trio.fail_after(5):
                while not await _tail_is_locked(house):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            yield
            nursery.cancel_scope.cancel()

    return held()


async def _tail_is_locked(house: House) -> bool:
    return not await house.database.fetch("SELECT 1 FROM ledger_tail FOR UPDATE SKIP LOCKED")


def _counts(attempted: int, forwarded: int, failed: int) -> dict[str, object]:
    return {"ok": True, "attempted": attempted, "forwarded": forwarded, "failed": failed}


def test_the_signature_header_is_made_as_stripe_makes_it() -> None:
    header = signature_header(b"{}", secret="whsec_test", timestamp_s=5)
    assert header.startswith("t=5,v1=")
