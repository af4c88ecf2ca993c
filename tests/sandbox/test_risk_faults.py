"""What goes wrong by script, from inside and over ``/control``."""

from typing import Any

import httpx
import pytest
import trio

from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.risk_faults import (
    CUT,
    CUT_AFTER_ACTING,
    LYING,
    PAGE,
    SILENT,
    SILENT_AFTER_ACTING,
    Fault,
    refused,
    slow,
    throttled,
)
from tests.sandbox.parties import until
from tests.sandbox.risk_callers import Caller, open_caller

ADJUST = "/v1/risk/adjustments"
DEBIT = {
    "source_loss_event_id": "lse_1",
    "account_id": "acc_1",
    "account_did": "did:key:zA",
    "amount_minor": "250",
    "currency": "USD",
    "reason_code": "chargeback",
    "direction": "debit",
}


async def debit(caller: Caller) -> httpx.Response:
    return await caller.send(Target.CLAWINCOME, ADJUST, DEBIT)


def is_done(caller: Caller) -> bool:
    return caller.sandbox.clawincome.balances_minor == {"acc_1": -250}


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (refused(503, "UNAVAILABLE"), 503, "UNAVAILABLE"),
        (refused(409, "IDEMPOTENCY_CONFLICT"), 409, "IDEMPOTENCY_CONFLICT"),
        (refused(500, acts=True), 500, "INTERNAL_ERROR"),
        (LYING, 200, "INTERNAL_ERROR"),
        (throttled(), 429, "RATE_LIMITED"),
    ],
)
async def test_a_call_is_refused_by_script(fault: Fault, status: int, code: str) -> None:
    async with open_caller() as caller:
        caller.sandbox.desks[Target.CLAWINCOME].script.add(fault, calls=1)
        answer = await debit(caller)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
        assert "retry-after" not in answer.headers
        assert is_done(caller) is fault.acts
        # What was done is there for the repetition, which is an ordinary call.
        assert (await debit(caller)).json()["replay"] is fault.acts


async def test_a_throttled_caller_is_told_when_to_come_back() -> None:
    async with open_caller() as caller:
        caller.sandbox.desks[Target.CLAWINCOME].script.add(throttled(3))
        answer = await debit(caller)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


async def test_a_page_is_no_json() -> None:
    async with open_caller() as caller:
        caller.sandbox.desks[Target.CLAWINCOME].script.add(PAGE)
        answer = await debit(caller)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
        assert not is_done(caller)


@pytest.mark.parametrize("fault", [SILENT, SILENT_AFTER_ACTING, CUT, CUT_AFTER_ACTING])
async def test_a_call_stays_unanswered_by_script(fault: Fault) -> None:
    async with open_caller(timeout_s=0.3) as caller:
        caller.sandbox.desks[Target.CLAWINCOME].script.add(fault, calls=1)
        expected = httpx.ReadTimeout if "silence" in fault.ending else httpx.RemoteProtocolError
        with pytest.raises(expected):
            await debit(caller)
        assert is_done(caller) is fault.acts
        assert (await debit(caller)).json()["replay"] is fault.acts


async def test_a_slow_call_has_its_effect_though_nobody_waits() -> None:
    async with open_caller(timeout_s=0.1) as caller:
        desk = caller.sandbox.desks[Target.CLAWINCOME]
        desk.script.add(slow(0.3), calls=1)
        with pytest.raises(httpx.ReadTimeout):
            await debit(caller)
        assert desk.call_count == 0
        await until(lambda: desk.call_count == 1)
        assert is_done(caller)
        assert desk.calls[0].http_status == 201


async def test_a_silent_target_keeps_no_other_waiting() -> None:
    async with open_caller() as caller, trio.open_nursery() as nursery:
        caller.sandbox.desks[Target.ESCROW].script.add(SILENT)
        nursery.start_soon(caller.send, Target.ESCROW, "/x", {})
        assert (await debit(caller)).status_code == 201
        nursery.cancel_scope.cancel()


async def test_faults_follow_one_another_for_their_calls_or_until_cleared() -> None:
    async with open_caller() as caller:
        script = caller.sandbox.desks[Target.CLAWINCOME].script
        script.add(refused(500), refused(501), calls=2)
        script.add(refused(502))
        statuses = [(await debit(caller)).status_code for _ in range(7)]
        assert statuses == [500, 500, 501, 501, 502, 502, 502]
        script.clear()
        assert (await debit(caller)).status_code == 201


# Over HTTP --------------------------------------------------------------------------------------


async def control(caller: Caller, name: str, body: object = None) -> tuple[int, Any]:
    url = f"{caller.sandbox.base_url}/control{name}"
    answer = await (caller.client.get(url) if body is None else caller.client.post(url, json=body))
    return answer.status_code, answer.json()


async def test_control_shows_state_faults_and_calls_and_no_key() -> None:
    async with open_caller() as caller:
        await debit(caller)
        status, shown = await control(caller, "")
        assert (status, list(shown)) == (
            200,
            ["escrow", "clawinsure", "clawincome", "clawbounties"],
        )
        income = shown["clawincome"]
        assert await control(caller, "/clawincome") == (200, income)
        assert income["base_url"] == f"{caller.sandbox.base_url}/clawincome"
        assert income["state"]["balances_minor"] == {"acc_1": "-250"}
        assert (income["faults"], income["call_count"]) == ([], 1)
        (call,) = income["calls"]
        assert (call["path"], call["idempotency_key"], call["http_status"]) == (ADJUST, "k1", 201)
        assert call["body"] == {"idempotency_key": "k1", **DEBIT}
        assert (call["said"]["status"], call["said"]["replay"]) == (201, False)
        for address in caller.sandbox.addresses.values():
            assert address.key.reveal() not in str(shown)


async def test_control_shows_what_cannot_be_read_or_is_too_deep() -> None:
    async with open_caller() as caller:
        url = caller.sandbox.addresses[Target.ESCROW].base_url
        for content in (b"\xff", b"[" * 900 + b"]" * 900):
            await caller.client.post(url, content=content)
        status, shown = await control(caller, "/escrow")
        assert status == 200
        assert shown["calls"][1]["body"] == "�"


async def test_faults_set_over_control_replace_those_that_waited() -> None:
    async with open_caller() as caller:
        for code in ("FIRST", "SECOND"):
            fault = {"ending": "refusal", "status": 503, "code": code, "calls": 1}
            status, shown = await control(caller, "/clawincome", {"faults": [fault]})
            assert status == 200
            assert shown["faults"] == [
                {**fault, "acts": False, "delay_s": 0.0, "retry_after_s": None}
            ]
        answer = await debit(caller)
        assert (answer.status_code, answer.json()["error"]) == (503, "SECOND")
        assert (await debit(caller)).status_code == 201
        await control(caller, "/clawincome", {"faults": [{"ending": "page"}]})
        await control(caller, "/clawincome", {"state": {"acc_1": "40"}})
        assert (await debit(caller)).status_code == 500
        await control(caller, "/clawincome", {"faults": []})
        assert (await debit(caller)).status_code == 200
        assert caller.sandbox.clawincome.balances_minor == {"acc_1": 40}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("/clawincome", {"faults": [{"ending": "maybe"}]}),
        ("/clawincome", {"faults": [{"ending": "cut", "calls": 0}]}),
        ("/clawincome", {"faults": [{"ending": "refusal", "status": "500"}]}),
        ("/clawincome", {"faults": [{"ending": "refusal", "status": 600}]}),
        ("/clawincome", {"faults": [{"ending": "own", "delay_s": -1}]}),
        ("/clawincome", {"faults": [{}]}),
        ("/clawincome", {"faults": ["cut"]}),
        ("/clawincome", {"faults": [], "state": {"acc_1": "x"}}),
        ("/clawincome", {"faults": [], "state": []}),
        ("/clawincome", {"fault": []}),
        ("/clawincome", []),
        ("/escrow", {"state": {"acc_1": "held"}}),
        ("/escrow", {"state": {"esc_1": "frozen"}}),
        ("/clawinsure", {"state": {"acc_1": {"coverage": 1}}}),
        ("/clawbounties", {"state": {"bty_1": "gone"}}),
    ],
)
async def test_a_wrong_wish_is_400_and_changes_nothing(name: str, body: object) -> None:
    async with open_caller() as caller:
        await control(caller, name, {"faults": [{"ending": "cut"}]})
        _, before = await control(caller, name)
        status, said = await control(caller, name, body)
        assert (status, said["error"]) == (400, "INVALID_REQUEST")
        assert await control(caller, name) == (200, before)


async def test_there_is_nothing_else_below_control() -> None:
    async with open_caller() as caller:
        for name in ("/ledger", "/escrow/x", "/escrow/"):
            status, said = await control(caller, name)
            assert (status, said["error"]) == (404, "NOT_FOUND")
