"""Stripe's answers one by one: which is a refusal, and which says nothing at all."""

import json
from contextlib import closing
from typing import Any

import pytest

from clawsettle.domain.providers import Absent, Declined, Sent, Unanswered
from tests.clients.faulty import Fault, FaultyServer, answering, faulty, hang
from tests.clients.providers import ordered, stripe_connect

INVALID = "invalid_request_error"
RETRY = "stripe-should-retry: true"


def error(status: int, kind: str, code: str | None = None, *headers: str) -> Fault:
    said = {"error": {"type": kind, "code": code, "message": "sk_live_secret said no"}}
    return answering(status, json.dumps(said).encode(), "content-type: application/json", *headers)


REFUSALS: dict[str, Fault] = {
    "400": error(400, INVALID, "parameter_invalid_integer"),
    "400 without a code": error(400, INVALID),
    "the platform's balance": error(400, INVALID, "balance_insufficient"),
    "402": error(402, "card_error", "payouts_not_allowed"),
    "404": error(404, INVALID, "resource_missing"),
    "an account that is not connected": error(403, INVALID, "account_invalid"),
}
UNKNOWN: dict[str, Fault] = {
    "401": error(401, INVALID),
    "401 of an expired key": error(401, INVALID, "api_key_expired"),
    "403 of our key": error(403, INVALID),
    "403 with another code": error(403, INVALID, "more_permissions_required"),
    "the other mode": error(404, INVALID, "livemode_mismatch"),
    "a platform's key is needed": error(400, INVALID, "platform_account_required"),
    "400 of the moment": error(400, INVALID, "lock_timeout"),
    "400 as a rate limit": error(400, INVALID, "rate_limit"),
    "400 that may be asked again": error(400, INVALID, "some_code", RETRY),
    "another use of the key": error(400, "idempotency_error"),
    "409": error(409, "idempotency_error", "idempotency_key_in_use"),
    "409 of a lock": error(409, INVALID, "lock_timeout"),
    "429": error(429, INVALID, "rate_limit"),
    "500": error(500, "api_error"),
    "503": error(503, "api_error"),
    "400 of an unknown type": error(400, "api_error"),
    "400 without an error": answering(400, b"{}"),
    "400 with a text for an error": answering(400, b'{"error":"invalid_grant"}'),
    "400 with no object for an error": answering(400, b'{"error":null}'),
    "400 with a list for an error": answering(400, b'{"error":[]}'),
    "400 by a proxy": answering(400, b"<html>no</html>"),
    "a redirect": answering(302, b"", "location: http://127.0.0.1:1/"),
    "200 by a proxy": answering(200, b"<html>welcome</html>"),
    "200 with nothing": answering(200, b""),
    "200 with null": answering(200, b"null"),
    "200 with a list": answering(200, b"[]"),
    "200 with another object": answering(200, b'{"object":"balance"}'),
    "200 that is no UTF-8": answering(200, b'{"id":"\xff"}'),
}


async def sent_to(fault: Fault) -> object:
    async with faulty(None, [fault]) as server:
        with closing(stripe_connect(server.base_url)) as provider:
            outcome = await provider.send(ordered("acct_1"))
        assert len(server.requests) == 1
        return outcome


@pytest.mark.parametrize("fault", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_final(fault: Fault) -> None:
    outcome = await sent_to(fault)
    assert isinstance(outcome, Declined)
    assert "said no" in outcome.message


@pytest.mark.parametrize("fault", UNKNOWN.values(), ids=UNKNOWN)
async def test_everything_else_is_unknown_and_tells_none_of_stripes_words(fault: Fault) -> None:
    outcome = await sent_to(fault)
    assert isinstance(outcome, Unanswered)
    assert "said no" not in outcome.message


def transfer(**changes: Any) -> dict[str, Any]:
    said = {
        "id": "tr_1",
        "object": "transfer",
        "amount": 1200,
        "currency": "usd",
        "destination": "acct_1",
        "metadata": {"payout_id": "pout_x"},
        "reversed": False,
    }
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def payout(**changes: Any) -> dict[str, Any]:
    said = {
        "id": "po_1",
        "object": "payout",
        "amount": 1200,
        "created": 1_790_000_000,
        "currency": "usd",
        "metadata": {"payout_id": "pout_x"},
        "status": "pending",
    }
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def told(*answers: Any) -> list[Fault]:
    head = "content-type: application/json"
    return [answering(200, json.dumps(answer).encode(), head) for answer in answers]


def page(*objects: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"object": "list", "data": objects, "has_more": False, "url": "/v1/x", **changes}


async def sent_with(server: FaultyServer) -> object:
    with closing(stripe_connect(server.base_url)) as provider:
        return await provider.send(ordered("acct_1", payout_id="pout_x"))


async def looked_with(server: FaultyServer) -> object:
    with closing(stripe_connect(server.base_url, timeout_s=0.5)) as provider:
        return await provider.look(ordered("acct_1", payout_id="pout_x"))


@pytest.mark.parametrize(
    "answers",
    [
        [transfer(amount=1199)],
        [transfer(amount="1200")],
        [transfer(currency="eur")],
        [transfer(destination="acct_2")],
        [transfer(metadata={"payout_id": "pout_y"})],
        [transfer(metadata=None)],
        [transfer(id=None)],
        [transfer(id=7)],
        [transfer(reversed=True)],
        [transfer(), payout(amount=1)],
        [transfer(), payout(status="returned")],
        [transfer(), payout(status=None)],
        [transfer(), payout(created="now")],
        [transfer(), payout(created=10**30)],
        [transfer(), payout(metadata={})],
    ],
)
async def test_a_send_believes_only_an_answer_that_is_what_was_ordered(
    answers: list[dict[str, Any]],
) -> None:
    async with faulty(None, told(*answers)) as server:
        assert isinstance(await sent_with(server), Unanswered)
        assert len(server.requests) == len(answers)


async def test_a_send_believes_an_answer_that_is_what_was_ordered() -> None:
    async with faulty(None, told(transfer(), payout())) as server:
        assert await sent_with(server) == Sent("po_1", "tr_1")


@pytest.mark.parametrize(
    "answers",
    [
        [page(has_more=True)],
        [page(data=None)],
        [page(data=["po_1"])],
        [page(payout(id=None))],
        [page(payout(), has_more=None)],
        [page(), page(data={})],
        [page(), page(transfer(), transfer())],
        [payout()],
    ],
)
async def test_a_look_does_not_take_what_it_cannot_read_for_absence(answers: list[Any]) -> None:
    async with faulty(None, [*told(*answers), hang]) as server:
        assert isinstance(await looked_with(server), Unanswered)


async def test_a_look_at_two_empty_lists_is_absence() -> None:
    async with faulty(None, told(page(), page())) as server:
        assert await looked_with(server) == Absent()


async def test_no_call_reports_on_the_one_before() -> None:
    async with faulty(None, told(transfer(), payout())) as server:
        await sent_with(server)
        assert len(server.heads) == 2
        assert not any("telemetry" in head.lower() for head in server.heads)


async def test_the_key_is_not_in_what_the_client_says_of_itself() -> None:
    assert "sk_test_1" not in repr(stripe_connect("http://127.0.0.1:1"))
