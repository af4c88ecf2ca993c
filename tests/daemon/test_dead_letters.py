"""Dead letters in a whole daemon: what Stripe is told, and that a mended one reaches the ledger."""

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
import trio

from tests.house import ADMIN, House, Json, open_house, payin, settings

LIST = "/v1/dead-letters"
QUIET: dict[str, Any] = {"poll_s": 3600.0}


async def act(house: House, event_id: str, action: str, why: str = "mended") -> httpx.Response:
    return await house.settle.post(
        f"{LIST}/settlement:{event_id}/{action}", json={"why": why}, headers=ADMIN
    )


async def listed(house: House, state: str = "dead") -> list[Json]:
    answer = await house.settle.get(LIST, params={"state": state}, headers=ADMIN)
    letters: list[Json] = answer.json()["dead_letters"]
    return letters


async def until(house: House, event_id: str, is_so: Callable[[Mapping[str, Any]], bool]) -> None:
    with trio.fail_after(10):
        while not is_so(await house.row(event_id)):  # noqa: ASYNC110 - rows tell nobody
            await trio.sleep(0.01)


async def until_state(house: House, event_id: str, state: str) -> None:
    await until(house, event_id, lambda row: row["state"] == state)


async def contradicted(house: House) -> tuple[dict[str, object], str]:
    """Return an event that the ledger refuses with 409, and whose account it names.

    Somebody has used the event's idempotency key for another payment.
    """
    stranger = {
        "provider": "other",
        "external_payment_id": "x",
        "direction": "payin",
        "status": "pending",
        "account_id": await house.open_account("did:key:bob"),
        "amount_minor": "1",
        "currency": "USD",
    }
    answer = await house.ledger.post(
        "/v1/payments/settlements/ingest",
        json=stranger,
        headers={"idempotency-key": "stripe:event:evt_1"},
    )
    assert answer.status_code == 201, answer.text
    account_id = await house.open_account()
    return payin("evt_1", account_id), account_id


async def mend(house: House) -> None:
    """Let the ledger forget the key."""
    await house.database.fetch("DELETE FROM ledger_ingestion")


async def test_a_mended_dead_letter_reaches_the_ledger_once(database_url: str) -> None:
    async with open_house(database_url, settings(forwarding=QUIET)) as house:
        event, account_id = await contradicted(house)
        first = await house.deliver(event)
        assert first.status_code == 200
        assert first.json()["forwarded_to_ledger"] is False
        assert "retry_scheduled" not in first.json()
        (letter,) = await listed(house)
        assert (letter["id"], letter["blame"]) == ("settlement:evt_1", "target")
        assert letter["reason"].startswith("IDEMPOTENCY_KEY_REUSED")
        row = await house.row("evt_1")
        for _ in range(3):
            again = await house.deliver(event)
            assert (again.status_code, again.json()) == (200, {**first.json(), "deduped": True})
        # A call to the ledger would have counted an attempt.
        assert await house.row("evt_1") == row
        await mend(house)
        answer = await act(house, "evt_1", "requeue")
        assert (answer.status_code, answer.json()["state"]) == (200, "failed")
        # Nobody polls here: the requeue itself has rung.
        await until_state(house, "evt_1", "forwarded")
        assert (await house.row("evt_1"))["attempts"] == 1
        assert await house.available(account_id) == 2500
        assert await listed(house, "any") == []
        replay = (await house.deliver(event)).json()
        assert (replay["deduped"], replay["forwarded_to_ledger"]) == (True, True)
        again = await act(house, "evt_1", "requeue")
        assert again.json()["details"]["from_status"] == "forwarded"
        assert await house.available(account_id) == 2500


async def test_a_forced_retry_of_a_dead_letter_is_a_requeue_that_is_kept(database_url: str) -> None:
    async with open_house(database_url, settings(forwarding=QUIET)) as house:
        event, account_id = await contradicted(house)
        await house.deliver(event)
        assert (await house.retry(event_id="evt_1", force=True))["failed"] == 1
        await mend(house)
        assert (await house.retry(event_id="evt_1", force=True))["forwarded"] == 1
        assert (await house.row("evt_1"))["attempts"] == 1
        assert await house.available(account_id) == 2500
        answer = await house.settle.get(f"{LIST}/settlement:evt_1", headers=ADMIN)
        kept = [(one["action"], one["why"]) for one in answer.json()["actions"]]
        assert kept == [("requeue", "forced retry")] * 2


async def test_a_discarded_letter_is_never_sent_and_its_redeliveries_are_answered(
    database_url: str,
) -> None:
    async with open_house(database_url, settings(forwarding=QUIET)) as house:
        event, account_id = await contradicted(house)
        first = (await house.deliver(event)).json()
        assert (await act(house, "evt_1", "discard", "a test of theirs")).status_code == 200
        await mend(house)
        row = await house.row("evt_1")
        answer = await house.deliver(event)
        assert (answer.status_code, answer.json()) == (200, {**first, "deduped": True})
        for options in ({"event_id": "evt_1", "force": True}, {"force": True}, {}):
            assert (await house.retry(**options))["attempted"] == 0
        assert await house.row("evt_1") == row
        assert await house.available(account_id) == 0
        assert await listed(house) == []
        assert [letter["event_id"] for letter in await listed(house, "discarded")] == ["evt_1"]
        ready = (await house.settle.get("/ready")).json()
        assert (ready["status"], ready["backlog"]["dead_count"]) == ("ready", 0)


async def test_an_unreadable_payload_is_poison_and_the_next_row_goes_through(
    database_url: str,
) -> None:
    async with open_house(database_url, settings(forwarding=QUIET)) as house:
        for event_id in ("evt_1", "evt_2"):
            await house.deliver(payin(event_id, "acc_32ca986a"))
        await house.open_account()
        await house.database.fetch(
            "UPDATE settlement_outbox SET payload = '{broken', due_at = now() - interval '1 hour'"
            " WHERE event_id = 'evt_1'"
        )
        assert (await house.retry(force=True))["forwarded"] == 1
        assert await house.available("acc_32ca986a") == 2500
        (letter,) = await listed(house)
        assert (letter["event_id"], letter["blame"], letter["code"]) == (
            "evt_1",
            "poison",
            "INTERNAL_ERROR",
        )
        assert "ledger_status" not in letter
        dead_at = (await house.row("evt_1"))["updated_at"]
        await act(house, "evt_1", "requeue", "look again")
        await until(house, "evt_1", lambda r: r["state"] == "dead" and r["updated_at"] > dead_at)
        whole = (await house.settle.get(f"{LIST}/settlement:evt_1", headers=ADMIN)).json()
        assert (whole["state"], whole["attempts"], len(whole["actions"])) == ("dead", 1, 1)
        assert whole["payload_text"] == "{broken"
        answer = await house.deliver(payin("evt_1", "acc_32ca986a"))
        assert (answer.status_code, answer.json()["forwarded_to_ledger"]) == (200, False)


@pytest.mark.parametrize(
    ("limit", "named"), [({"attempts_max": 1}, "attempts_max"), ({"age_max_s": 1}, "age_max_s")]
)
async def test_a_row_at_a_limit_is_a_dead_letter_that_names_it(
    database_url: str, limit: dict[str, int], named: str
) -> None:
    async with open_house(database_url, settings(forwarding={**QUIET, **limit})) as house:
        await house.deliver(payin("evt_1", "acc_32ca986a"))
        if named == "age_max_s":
            assert (await house.row("evt_1"))["state"] == "failed"
            await house.database.fetch(
                "UPDATE settlement_outbox SET opened_at = now() - interval '2 seconds'"
            )
            await house.retry(event_id="evt_1", force=True)
        (letter,) = await listed(house)
        assert named in letter["reason"]
        assert (letter["blame"], letter["ledger_status"]) == ("target", 404)
        answer = await house.deliver(payin("evt_1", "acc_32ca986a"))
        assert (answer.status_code, answer.json()["ledger_status"]) == (200, 404)
        await house.open_account()
        await act(house, "evt_1", "requeue")
        await until_state(house, "evt_1", "forwarded")
        assert await house.available("acc_32ca986a") == 2500


async def test_a_dead_letter_that_counted_does_not_count_again_when_requeued(
    database_url: str,
) -> None:
    configured = settings(forwarding={**QUIET, "attempts_max": 2})
    async with open_house(database_url, configured) as house:
        said = [(await house.deliver(payin("evt_1", "acc_nobody"))).status_code]
        await house.database.fetch("UPDATE settlement_outbox SET due_at = now()")
        died = await house.deliver(payin("evt_1", "acc_nobody"))
        assert (said, died.status_code, died.json()["deduped"]) == ([502], 200, False)
        await act(house, "evt_1", "requeue")
        await until(house, "evt_1", lambda r: r["attempts"] == 1 and r["lease_token"] is None)
        await house.database.fetch("UPDATE settlement_outbox SET due_at = now()")
        again = await house.deliver(payin("evt_1", "acc_nobody"))
        assert (again.status_code, again.json()["deduped"]) == (200, True)


async def test_with_committed_acknowledgement_a_dead_letter_is_answered_alike(
    database_url: str,
) -> None:
    committed = settings(forwarding={**QUIET, "acknowledge": "committed"})
    async with open_house(database_url, committed) as house:
        event, _ = await contradicted(house)
        assert (await house.deliver(event)).json()["retry_scheduled"] is True
        await until_state(house, "evt_1", "dead")
        body = (await house.deliver(event)).json()
        assert (body["deduped"], body["forwarded_to_ledger"], body["ledger_status"]) == (
            True,
            False,
            409,
        )
        assert "retry_scheduled" not in body


async def test_of_two_operators_at_once_one_is_told_that_the_other_was_first(
    database_url: str,
) -> None:
    # A claim passes over a row that another request is just holding, so here the poll is needed.
    polling = settings(forwarding={"poll_s": 0.05})
    async with open_house(database_url, polling) as one, open_house(database_url, polling) as other:
        event, account_id = await contradicted(one)
        await one.deliver(event)
        await mend(one)
        statuses: list[int] = []

        async def requeue(house: House) -> None:
            statuses.append((await act(house, "evt_1", "requeue")).status_code)

        async with trio.open_nursery() as nursery:
            for house in (one, other) * 4:
                nursery.start_soon(requeue, house)
        assert sorted(statuses) == [200] + [409] * 7
        await until_state(one, "evt_1", "forwarded")
        assert await one.available(account_id) == 2500
