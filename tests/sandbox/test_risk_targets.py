"""The stand-ins keep what they were told, and refuse what the services refuse."""

from collections.abc import AsyncIterator

import httpx
import pytest

from clawsettle.config import Address, Secret
from clawsettle.domain.errors import ConfigError
from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.risk_faults import SILENT
from clawsettle.sandbox.risk_targets import open_risk_sandbox
from tests.sandbox.risk_callers import Body, Caller, open_caller

CLAIM = {
    "source_loss_event_id": "lse_1",
    "source_service": "stripe",
    "source_event_id": "evt_1",
    "account_id": "acc_1",
    "account_did": "did:key:zA",
    "amount_minor": "250",
    "currency": "USD",
    "reason_code": "chargeback",
    "severity": "high",
    "metadata": {},
}
HOLD = {"source_loss_event_id": "lse_1", "action": "apply", "reason": "chargeback"}
RELEASE = {"source_loss_event_id": "lse_1", "action": "release", "reason": "over"}
DISPUTE = {**CLAIM, "bounty_id": "bty_1"}
CLEAR = {"source_loss_event_id": "lse_1", "bounty_id": "bty_1", "reason": "over"}
INSURE, ADJUST = "/v1/claims/auto", "/v1/risk/adjustments"
DISPUTES, CLEARS = "/v1/risk/loss-events", "/v1/risk/loss-events/clear"


def escrow(escrow_id: str = "esc_0a-1") -> str:
    return f"/v1/escrows/{escrow_id}/risk-hold"


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with open_caller() as caller:
        yield caller


async def test_an_address_in_use_is_a_wrong_configuration(caller: Caller) -> None:
    bind = Address.parse(caller.sandbox.base_url.removeprefix("http://"))
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1 port"):
        async with open_risk_sandbox(bind):
            pass


async def test_each_target_has_a_segment_and_a_key_of_its_own(caller: Caller) -> None:
    addresses = caller.sandbox.addresses
    assert [a.base_url for a in addresses.values()] == [
        f"{caller.sandbox.base_url}/{name}"
        for name in ("escrow", "clawinsure", "clawincome", "clawbounties")
    ]
    assert len({address.key for address in addresses.values()}) == 4
    elsewhere = await caller.client.post(f"{caller.sandbox.base_url}/ledger/v1/claims/auto")
    assert (elsewhere.status_code, elsewhere.json()["error"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("credential", [None, "Bearer wrong", "Basic {}", "{}"])
async def test_a_call_without_the_targets_key_is_401_and_has_no_effect(
    caller: Caller, credential: str | None
) -> None:
    address = caller.sandbox.addresses[Target.CLAWINCOME]
    headers = {"idempotency-key": "k1"}
    if credential is not None:
        headers["authorization"] = credential.format(address.key.reveal())
    answer = await caller.client.post(
        address.base_url + ADJUST,
        json={**CLAIM, "idempotency_key": "k1", "direction": "debit"},
        headers=headers,
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "UNAUTHORIZED")
    assert caller.sandbox.clawincome.balances_minor == {}


async def test_a_given_key_is_the_one_that_is_asked_for() -> None:
    key = Secret("given")
    async with open_risk_sandbox(keys={Target.ESCROW: key}) as sandbox:
        assert sandbox.addresses[Target.ESCROW].key == key


@pytest.mark.parametrize(
    ("target", "path", "body"),
    [
        (Target.ESCROW, "/v1/escrows/esc_1", HOLD),
        (Target.CLAWINSURE, "/v1/claims", CLAIM),
        (Target.CLAWINCOME, INSURE, CLAIM),
        (Target.CLAWBOUNTIES, "/v1/risk/loss-events/", DISPUTE),
    ],
)
async def test_another_path_is_404(caller: Caller, target: Target, path: str, body: Body) -> None:
    assert await caller.refusal(target, path, body) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("target", "path", "body", "missing"),
    [
        (Target.ESCROW, escrow(), HOLD, "source_loss_event_id"),
        (Target.ESCROW, escrow(), HOLD, "action"),
        (Target.ESCROW, escrow(), RELEASE, "source_loss_event_id"),
        (Target.CLAWINSURE, INSURE, CLAIM, "account_id"),
        (Target.CLAWINSURE, INSURE, CLAIM, "amount_minor"),
        (Target.CLAWINCOME, ADJUST, {**CLAIM, "direction": "debit"}, "direction"),
        (Target.CLAWINCOME, ADJUST, {**CLAIM, "direction": "debit"}, "currency"),
        (Target.CLAWBOUNTIES, DISPUTES, DISPUTE, "bounty_id"),
        (Target.CLAWBOUNTIES, CLEARS, CLEAR, "reason"),
        (Target.CLAWINCOME, ADJUST, {**CLAIM, "direction": "debit"}, "idempotency_key"),
    ],
)
async def test_a_body_that_lacks_a_field_is_400(
    caller: Caller, target: Target, path: str, body: Body, missing: str
) -> None:
    lacking = {**body, missing: None}
    assert await caller.refusal(target, path, lacking) == (400, "INVALID_REQUEST")


async def test_a_body_that_is_no_object_is_400(caller: Caller) -> None:
    address = caller.sandbox.addresses[Target.CLAWINSURE]
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        answer = await caller.client.post(
            address.base_url + INSURE,
            content=content,
            headers={"authorization": f"Bearer {address.key.reveal()}", "idempotency-key": "k"},
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")


# Escrow -----------------------------------------------------------------------------------------


async def test_an_escrow_is_held_for_one_event_until_it_is_released(caller: Caller) -> None:
    status, said = await caller.post(Target.ESCROW, escrow(), HOLD)
    assert (status, set(said)) == (200, {"escrow_id", "risk_hold"})
    assert said["risk_hold"] == {
        "source_loss_event_id": "lse_1",
        "reason": "chargeback",
        "status": "active",
    }
    assert (await caller.post(Target.ESCROW, escrow(), HOLD)) == (200, said)
    other = {**HOLD, "source_loss_event_id": "lse_2"}
    refusal = await caller.refusal(Target.ESCROW, escrow(), other, "k2")
    assert refusal == (409, "IDEMPOTENCY_CONFLICT")
    status, said = await caller.post(Target.ESCROW, escrow(), RELEASE, "k3")
    assert (status, said["risk_hold"]["status"]) == (200, "released")
    for key in ("k3", "k4"):
        refusal = await caller.refusal(Target.ESCROW, escrow(), RELEASE, key)
        assert refusal == (409, "RISK_HOLD_NOT_ACTIVE")
    assert (await caller.post(Target.ESCROW, escrow(), other, "k2"))[0] == 200


async def test_either_events_release_lifts_the_only_hold(caller: Caller) -> None:
    await caller.post(Target.ESCROW, escrow(), HOLD)
    other = {**RELEASE, "source_loss_event_id": "lse_2"}
    status, said = await caller.post(Target.ESCROW, escrow(), other, "k2")
    assert (status, said["risk_hold"]["source_loss_event_id"]) == (200, "lse_1")
    assert caller.sandbox.escrow.escrow("esc_0a-1").status == "held"


async def test_escrows_are_what_they_were_seeded_as(caller: Caller) -> None:
    caller.sandbox.escrow.seed({"esc_1": "settled", "esc_2": "absent"})
    for body, refusal in [(HOLD, "INVALID_STATUS"), (RELEASE, "RISK_HOLD_NOT_ACTIVE")]:
        assert await caller.refusal(Target.ESCROW, escrow("esc_1"), body) == (409, refusal)
        assert await caller.refusal(Target.ESCROW, escrow("esc_2"), body) == (404, "NOT_FOUND")


@pytest.mark.parametrize("escrow_id", ["esc_", "esc_xyz", "acc_1", "esc_1%20", "esc_1%2F2"])
async def test_an_escrow_id_is_hexadecimal_or_400(caller: Caller, escrow_id: str) -> None:
    refusal = await caller.refusal(Target.ESCROW, escrow(escrow_id), HOLD)
    assert refusal == (400, "INVALID_REQUEST")


# clawinsure -------------------------------------------------------------------------------------


async def test_nobody_is_insured_unless_seeded(caller: Caller) -> None:
    assert await caller.refusal(Target.CLAWINSURE, INSURE, CLAIM) == (404, "NOT_FOUND")
    caller.sandbox.clawinsure.seed({"did:key:zA": {"coverage_minor": "250"}})
    status, said = await caller.post(Target.CLAWINSURE, INSURE, CLAIM)
    assert (status, said["auto"], said["replay"]) == (201, True, False)
    assert said["claim"]["source_loss_event_id"] == "lse_1"
    assert said["claim"]["amount_minor"] == "250"
    again = await caller.post(Target.CLAWINSURE, INSURE, CLAIM)
    assert again == (200, {**said, "replay": True})
    assert len(caller.sandbox.clawinsure.claims) == 1


async def test_a_policy_pays_what_it_covers_in_all(caller: Caller) -> None:
    caller.sandbox.clawinsure.seed({"acc_1": {"coverage_minor": 499}})
    assert (await caller.post(Target.CLAWINSURE, INSURE, CLAIM))[0] == 201
    refusal = await caller.refusal(Target.CLAWINSURE, INSURE, CLAIM, "k2")
    assert refusal == (409, "REQUEST_EXCEEDS_COVERAGE")
    caller.sandbox.clawinsure.seed({"acc_1": {"coverage_minor": 499, "is_active": False}})
    refusal = await caller.refusal(Target.CLAWINSURE, INSURE, CLAIM, "k2")
    assert refusal == (409, "POLICY_NOT_CLAIMABLE")
    caller.sandbox.clawinsure.seed({"acc_1": None})
    assert await caller.refusal(Target.CLAWINSURE, INSURE, CLAIM, "k2") == (404, "NOT_FOUND")


# clawincome -------------------------------------------------------------------------------------


async def test_a_debit_and_its_credit_leave_the_balance_as_it_was(caller: Caller) -> None:
    balances = caller.sandbox.clawincome.balances_minor
    debit, credit = {**CLAIM, "direction": "debit"}, {**CLAIM, "direction": "credit"}
    status, said = await caller.post(Target.CLAWINCOME, ADJUST, debit)
    assert (status, said["ok"], said["replay"]) == (201, True, False)
    assert said["adjustment"]["direction"] == "debit"
    assert await caller.post(Target.CLAWINCOME, ADJUST, debit) == (200, {**said, "replay": True})
    assert balances == {"acc_1": -250}
    assert (await caller.post(Target.CLAWINCOME, ADJUST, credit, "k2"))[0] == 201
    assert balances == {"acc_1": 0}


async def test_a_key_belongs_to_one_request(caller: Caller) -> None:
    debit = {**CLAIM, "direction": "debit"}
    await caller.post(Target.CLAWINCOME, ADJUST, debit)
    refusal = await caller.refusal(Target.CLAWINCOME, ADJUST, {**debit, "amount_minor": "251"})
    assert refusal == (409, "IDEMPOTENCY_CONFLICT")
    assert caller.sandbox.clawincome.balances_minor == {"acc_1": -250}


async def test_what_was_refused_leaves_its_key_free(caller: Caller) -> None:
    wrong = {**CLAIM, "direction": "sideways"}
    assert (await caller.refusal(Target.CLAWINCOME, ADJUST, wrong))[0] == 400
    assert (await caller.post(Target.CLAWINCOME, ADJUST, {**CLAIM, "direction": "debit"}))[0] == 201


# clawbounties -----------------------------------------------------------------------------------


async def test_a_bounty_stays_disputed_when_it_is_cleared(caller: Caller) -> None:
    bounties = caller.sandbox.clawbounties
    assert bounties.bounty("bty_1") == "open"
    status, said = await caller.post(Target.CLAWBOUNTIES, DISPUTES, DISPUTE)
    assert (status, said["replay"], bounties.bounty("bty_1")) == (201, False, "disputed")
    again = await caller.post(Target.CLAWBOUNTIES, DISPUTES, DISPUTE)
    assert again == (200, {**said, "replay": True})
    assert await caller.refusal(Target.CLAWBOUNTIES, DISPUTES, DISPUTE, "k2") == (409, "CONFLICT")
    status, said = await caller.post(Target.CLAWBOUNTIES, CLEARS, CLEAR, "c1")
    assert (status, said["replay"]) == (201, False)
    again = await caller.post(Target.CLAWBOUNTIES, CLEARS, CLEAR, "c1")
    assert again == (200, {**said, "replay": True})
    refusal = await caller.refusal(Target.CLAWBOUNTIES, CLEARS, CLEAR, "c2")
    assert refusal == (409, "RISK_CLEAR_ALREADY_EXISTS")
    assert bounties.bounty("bty_1") == "disputed"


async def test_bounties_that_are_not_there_are_refused(caller: Caller) -> None:
    caller.sandbox.clawbounties.seed({"bty_1": "absent"})
    refusal = await caller.refusal(Target.CLAWBOUNTIES, DISPUTES, DISPUTE)
    assert refusal == (404, "NOT_FOUND")
    odd = {**DISPUTE, "bounty_id": "bounty"}
    assert await caller.refusal(Target.CLAWBOUNTIES, DISPUTES, odd) == (400, "INVALID_REQUEST")
    assert await caller.refusal(Target.CLAWBOUNTIES, CLEARS, CLEAR) == (404, "NOT_FOUND")


# The record of calls ----------------------------------------------------------------------------


async def test_every_call_is_kept_with_its_answer(caller: Caller) -> None:
    desk = caller.sandbox.desks[Target.ESCROW]
    await caller.post(Target.ESCROW, escrow(), HOLD)
    desk.script.add(SILENT, calls=1)
    with pytest.raises(httpx.ReadTimeout):
        await caller.client.post(f"{desk.address.base_url}/x", content=b"?", timeout=0.2)
    first, second = desk.calls
    assert (first.path, first.key, first.http_status) == (escrow(), "k1", 200)
    assert b'"action":"apply"' in first.body
    assert first.said is not None
    assert first.said.body["risk_hold"]["status"] == "active"
    assert (second.path, second.key, second.body) == ("/x", None, b"?")
    assert (second.said, second.http_status) == (None, None)
    assert desk.call_count == 2
