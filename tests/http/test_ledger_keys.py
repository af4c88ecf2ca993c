"""Which key opens which route of the ledger's port, and what a port without keys says."""

import re
from typing import Any

import httpx
import pytest

from clawsettle.config import Secret
from clawsettle.daemon.composition import assemble
from clawsettle.storage.bridge import open_database
from tests.house import Json, open_house, settings
from tests.http.test_ledger_routes import ALICE, INGEST, LIST, refusal

KEYS = {
    "admin_keys": (Secret("admin_old"), Secret("admin_new")),
    "verify_tokens": (Secret("verify_old"), Secret("verify_new")),
    "risk_keys": (Secret("risk_old"), Secret("risk_new")),
}
SCHEMES = {"ledgerAdmin": "admin", "ledgerVerify": "verify", "ledgerRisk": "risk"}
HOLDS = "/v1/risk/holds"
VERIFIED = {f"GET {LIST}", f"GET {LIST}/stripe/pi_1", f"GET /accounts/id/{ALICE}"}
HELD = {
    f"POST {HOLDS}/apply",
    f"POST {HOLDS}/release-by-source",
    f"POST {HOLDS}/rsk_1/release",
    f"GET {HOLDS}",
}
OTHERS = {
    f"POST {INGEST}",
    "POST /accounts",
    "GET /accounts/did:key:alice",
    "GET /v1/balances",
    "POST /v1/transfers",
    "GET /events/evt_1",
    "GET /events/idempotency/k1",
    "GET /events/verify",
    "GET /clearing/accounts",
    "POST /clearing/accounts",
    f"POST {LIST}",
    f"GET {HOLDS}/rsk_1",
    "GET /nothing",
    "HEAD /health",
}


@pytest.mark.parametrize("age", ["old", "new"])
async def test_a_scoped_key_opens_its_own_routes_and_no_other(database_url: str, age: str) -> None:
    configured = settings(ledger=KEYS, forwarding={"poll_s": 3600.0})
    async with open_house(database_url, configured) as house:
        for key, opened in (("verify", VERIFIED), ("risk", HELD)):
            for route in sorted(VERIFIED | HELD | OTHERS):
                method, path = route.split()
                for headers in (
                    {"authorization": f"Bearer {key}_{age}"},
                    {"authorization": "Bearer wrong", "x-admin-key": f"{key}_{age}"},
                ):
                    answer = await house.ledger.request(method, path, headers=headers)
                    assert (answer.status_code != 401) is (route in opened), (key, route)


async def test_the_document_says_which_keys_open_a_route(database_url: str) -> None:
    configured = settings(ledger=KEYS, forwarding={"poll_s": 3600.0})
    async with open_house(database_url, configured) as house:
        bare = {"authorization": ""}
        document = (await house.ledger.get("/openapi.json", headers=bare)).json()
        assert set(document["components"]["securitySchemes"]) == set(SCHEMES)
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                accepted = {scheme for one in operation["security"] for scheme in one}
                url = re.sub(r"\{.*?\}", "x", path)
                answer = await house.ledger.request(method, url, headers=bare)
                assert (answer.status_code != 401) is (accepted == set()), path
                for scheme, key in SCHEMES.items():
                    sent = {"authorization": f"Bearer {key}_new"}
                    answer = await house.ledger.request(method, url, headers=sent)
                    assert (answer.status_code != 401) is (not accepted or scheme in accepted), path


async def test_one_wrong_credential_does_not_spoil_a_right_one(database_url: str) -> None:
    configured = settings(ledger=KEYS, forwarding={"poll_s": 3600.0})
    async with open_house(database_url, configured) as house:
        for authorization, key, status in (
            ("Bearer admin_old", "risk_new", 200),
            ("Bearer risk_new", "admin_new", 200),
            ("Bearer verify_old", "risk_new", 200),
            ("bearer risk_old", "", 200),
            ("Bearer verify_old", "verify_new", 401),
            ("Bearer RISK_OLD", "risk", 401),
        ):
            headers = {"authorization": authorization, "x-admin-key": key}
            answer = await house.ledger.get(HOLDS, headers=headers)
            assert answer.status_code == status, headers


@pytest.mark.parametrize(
    ("configured", "answers"),
    [
        ({}, {LIST: 503, HOLDS: 503, "/v1/balances": 503, "/nothing": 503}),
        ({"verify_tokens": KEYS["verify_tokens"]}, {LIST: 200, HOLDS: 503, "/events/verify": 503}),
        ({"risk_keys": KEYS["risk_keys"]}, {LIST: 503, HOLDS: 200, "/nothing": 503}),
    ],
)
async def test_without_an_admin_key_only_scoped_keys_open_anything(
    database_url: str, configured: Json, answers: dict[str, int]
) -> None:
    async with open_database(database_url) as database:
        app: Any = assemble(settings(ledger={"admin_keys": (), **configured}), database).ledger_app
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger") as client:
            for path, status in answers.items():
                headers = {"authorization": "Bearer verify_new", "x-admin-key": "risk_new"}
                answer = await client.get(path, headers=headers)
                assert answer.status_code == status, path
                # A wrong key is 401 where a right one exists, and none helps where none does.
                wrong = await client.get(path, headers={"x-admin-key": "admin_new"})
                expected = (401, "UNAUTHORIZED", None)
                if status == 503:
                    expected = (503, "LEDGER_ADMIN_KEY_MISSING", None)
                assert refusal(wrong) == expected, path
            refused = await client.post(INGEST, headers={"x-admin-key": "verify_new"})
            assert refusal(refused) == (503, "LEDGER_ADMIN_KEY_MISSING", None)
            assert (await client.get("/health")).status_code == 200
