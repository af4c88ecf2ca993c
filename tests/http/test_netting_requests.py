"""What may be asked of netting over HTTP: orders, their keys, and who may give them."""

import pytest
from attrs import evolve

from clawsettle.config import AdminSettings
from tests.house import ADMIN, House, open_house, settings
from tests.http.netting_site import ALONE, RUNS, UNKNOWN_ID, act, ask, bad, get, made, refusal
from tests.netting import SOURCE, TARGET, paid, transfer

NO_DETAILS = (400, "INVALID_REQUEST", None)


async def is_untouched(house: House) -> bool:
    """Return whether no run was stored."""
    return not await house.database.fetch("SELECT 1 FROM netting_run")


# What is asked ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", " \n\t", "null", " null ", "{}", '{"unknown":[1]}'])
async def test_a_body_that_says_nothing_is_an_order_with_the_defaults(
    database_url: str, content: str
) -> None:
    async with open_house(database_url, ALONE) as house:
        headers = {**ADMIN, "idempotency-key": "key_1"}
        answer = await house.settle.post(RUNS, content=content, headers=headers)
        assert answer.status_code == 201
        assert answer.json()["run"]["request_hash"] == (
            "e825f0f3b87c30ff27be5d543d8de4370b8ec07eee7ad8769ef4e56ba5c843e8"
        )


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "7", "true", "{} {}", '{"limit":NaN}'])
async def test_a_body_that_is_no_json_object_is_refused_without_details(
    database_url: str, content: str
) -> None:
    async with open_house(database_url, ALONE) as house:
        headers = {**ADMIN, "idempotency-key": "key_1"}
        answer = await house.settle.post(RUNS, content=content, headers=headers)
        assert refusal(answer) == NO_DETAILS
        assert await is_untouched(house)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"currency": None, "limit": 0}, bad("currency")),
        ({"currency": " ", "limit": 0}, bad("currency")),
        ({"currency": 7}, bad("currency")),
        ({"currency": " eur ", "limit": 0}, (400, "UNSUPPORTED_CURRENCY", {"currency": "EUR"})),
        ({"limit": None, "source_clearing_domain": ""}, bad("limit")),
        ({"limit": "10"}, bad("limit")),
        ({"limit": True}, bad("limit")),
        ({"limit": 1.5}, bad("limit")),
        ({"limit": 0.9}, bad("limit")),
        ({"limit": 0}, bad("limit")),
        ({"limit": -1}, bad("limit")),
        ({"limit": 100_001}, bad("limit")),
        ({"limit": 2**70}, bad("limit")),
        ({"source_clearing_domain": None, "target_clearing_domain": ""},
         bad("source_clearing_domain")),
        ({"source_clearing_domain": " "}, bad("source_clearing_domain")),
        ({"source_clearing_domain": 7}, bad("source_clearing_domain")),
        ({"source_clearing_domain": "a\nb"}, bad("source_clearing_domain")),
        ({"source_clearing_domain": "x" * 300}, bad("source_clearing_domain")),
        ({"target_clearing_domain": None}, bad("target_clearing_domain")),
        ({"target_clearing_domain": "\t"}, bad("target_clearing_domain")),
        ({"target_clearing_domain": f" {SOURCE} ", "dry_run": 1},
         (400, "INVALID_REQUEST",
          {"source_clearing_domain": SOURCE, "target_clearing_domain": SOURCE})),
        ({"source_clearing_domain": TARGET},
         (400, "INVALID_REQUEST",
          {"source_clearing_domain": TARGET, "target_clearing_domain": TARGET})),
        ({"dry_run": 1, "target_clearing_domain": "typo"}, bad("dry_run")),
        ({"dry_run": None}, bad("dry_run")),
        ({"target_clearing_domain": "typo"}, bad("target_clearing_domain")),
        ({"target_clearing_domain": SOURCE.upper()}, bad("target_clearing_domain")),
    ],
)  # fmt: skip
async def test_the_first_wrong_field_in_the_contracts_order_is_named(
    database_url: str, body: dict[str, object], expected: tuple[int, str, object]
) -> None:
    async with open_house(database_url, ALONE) as house:
        assert refusal(await ask(house, body)) == expected
        assert await is_untouched(house)


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"idempotency-key": "k"}, True),
        ({"x-idempotency-key": "k"}, True),
        ({"idempotency-key": "k", "x-idempotency-key": ""}, True),
        ({"idempotency-key": "x" * 255}, True),
        ({}, False),
        ({"idempotency-key": "  "}, False),
        ({"idempotency-key": "", "x-idempotency-key": "k"}, False),
        ({"idempotency-key": "x" * 256}, False),
    ],
)
async def test_a_key_is_required_and_bounded_and_looked_at_before_the_body(
    database_url: str, headers: dict[str, str], is_taken: bool
) -> None:
    async with open_house(database_url, ALONE) as house:
        answer = await house.settle.post(RUNS, content="{", headers={**ADMIN, **headers})
        assert refusal(answer) == (NO_DETAILS if is_taken else bad("idempotency_key"))
        if is_taken:
            answer = await house.settle.post(RUNS, headers={**ADMIN, **headers})
            assert answer.status_code == 201


async def test_netting_is_for_admins_and_that_is_looked_at_first(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        for method, path in (
            ("POST", ""),
            ("GET", "?limit=x"),
            ("GET", f"/{UNKNOWN_ID}"),
            ("GET", f"/{UNKNOWN_ID}/audit?limit=x"),
            ("POST", f"/{UNKNOWN_ID}/resume"),
            ("POST", f"/{UNKNOWN_ID}/release"),
        ):
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "settle_house"},
            ):
                answer = await house.settle.request(
                    method, f"{RUNS}{path}", content=b"{", headers=headers
                )
                assert refusal(answer) == (401, "UNAUTHORIZED", None), (method, path, headers)


async def test_without_an_admin_key_every_route_is_closed(database_url: str) -> None:
    async with open_house(database_url, evolve(ALONE, admin=AdminSettings())) as house:
        closed = (503, "DEPENDENCY_NOT_CONFIGURED", {"field": "env.SETTLE_ADMIN_KEY"})
        assert refusal(await ask(house, [], None)) == closed
        for path in ("", f"/{UNKNOWN_ID}", f"/{UNKNOWN_ID}/audit"):
            assert refusal(await get(house, path)) == closed
        for action in ("resume", "release"):
            assert refusal(await act(house, UNKNOWN_ID, action)) == closed


# Keys -------------------------------------------------------------------------------------------


async def test_one_key_for_two_runs_is_refused(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run_id = (await made(house, limit=10))["run"]["id"]
        for body in ({}, {"limit": 11}, {"limit": 10, "source_clearing_domain": "another"}):
            answer = await ask(house, body)
            assert refusal(answer) == (409, "IDEMPOTENCY_KEY_REUSED", {"run_id": run_id}), body
        # What is wrong in itself is said before any run is looked at.
        assert refusal(await ask(house, {"limit": 0})) == bad("limit")


async def test_what_means_the_same_is_the_same_request(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await made(house)
        for body in (
            {"currency": " usd ", "limit": 100},
            {"limit": 100.0},
            {"source_clearing_domain": f" {SOURCE} ", "target_clearing_domain": TARGET},
        ):
            assert (await ask(house, body)).status_code == 200, body


async def test_a_changed_default_makes_an_honest_replay_no_other_request(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        run = (await made(house))["run"]
    changed = settings(
        netting={"poll_s": 3600, "default_limit": 7, "target_clearing_domain": "elsewhere"}
    )
    async with open_house(database_url, changed) as house:
        for body in ({}, {"limit": 100, "target_clearing_domain": TARGET}):
            again = await ask(house, body)
            assert (again.status_code, again.json()["run"]) == (200, run)
        assert refusal(await ask(house, {"limit": 7}))[:2] == (409, "IDEMPOTENCY_KEY_REUSED")


async def test_money_goes_to_a_target_of_the_configuration_alone(database_url: str) -> None:
    listed = settings(netting={"poll_s": 3600, "target_clearing_domains": ("reserve",)})
    async with open_house(database_url, listed) as house:
        await paid(house, ("a", "acct_A", 200))
        told = await made(house, target_clearing_domain=" reserve ")
        assert told["run"]["target_clearing_domain"] == "reserve"
        assert told["run"]["candidate_count"] == 1
        answer = await ask(house, {"target_clearing_domain": "reserv"}, "second")
        assert refusal(answer) == bad("target_clearing_domain")


async def test_a_source_has_only_the_payouts_that_lie_there(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        told = await made(house, source_clearing_domain="another")
        assert (told["run"]["candidate_count"], told["complete"]) == (0, True)
        assert (await made(house, "second"))["run"]["candidate_count"] == 1


async def test_the_key_of_a_released_run_is_used_up(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 200)
        run_id = (await made(house))["run"]["id"]
        assert (await act(house, run_id, "release")).status_code == 200
        details = {"run_id": run_id, "from_status": "released", "to_status": "running"}
        expected = (409, "INVALID_STATUS_TRANSITION", details)
        assert refusal(await ask(house)) == expected
        assert refusal(await act(house, run_id, "resume")) == expected
        await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 200)
        assert (await made(house, "second"))["run"]["candidate_count"] == 1
