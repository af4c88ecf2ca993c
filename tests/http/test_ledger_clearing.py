"""Clearing accounts as the port shows them, from both sides, and what accounts hold together."""

from datetime import UTC, datetime
from urllib.parse import quote

import trio

from tests.house import House, Json, open_house
from tests.http.test_ledger_routes import ALICE, QUIET, recorded, refusal
from tests.http.test_ledger_transfers import funded, moved

CLEARING = "/clearing/accounts"
PAYOUTS = "clr_28a671f7"
NONE = dict.fromkeys(("A", "H", "B", "F", "P"), "0")


async def opened(house: House, domain: str = "clawsettle.payouts", name: str = "Payouts") -> Json:
    answer = await house.ledger.post(CLEARING, json={"domain": domain, "name": name})
    assert answer.status_code == 201, answer.text
    body: Json = answer.json()
    return body


async def held_by(house: House, **query: str) -> Json:
    answer = await house.ledger.get("/v1/balances", params=query)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def test_a_clearing_account_is_opened_once_and_keeps_its_name(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        account = await opened(house, " clawsettle.payouts ")
        assert list(account) == [
            *("id", "domain", "name", "isActive", "balances", "createdAt", "updatedAt")
        ]
        shown = (account["id"], account["domain"], account["name"], account["isActive"])
        assert shown == (PAYOUTS, "clawsettle.payouts", "Payouts", True)
        buckets = ("available", "held", "bonded", "feePool", "promo", "total")
        assert account["balances"] == dict.fromkeys(buckets, "0")
        assert await opened(house, name="Another name") == account
        for path in (f"{CLEARING}/domain/clawsettle.payouts", f"{CLEARING}/{PAYOUTS}"):
            answer = await house.ledger.get(path)
            assert (answer.status_code, answer.json()) == (200, account)


async def test_a_transfer_opens_a_clearing_account_that_is_called_by_its_domain(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        await moved(house, "k1", "did:key:alice", "clearing:a/b: c", "7")
        path = f"{CLEARING}/domain/{quote('a/b: c', safe='')}"
        account = (await house.ledger.get(path)).json()
        assert (account["domain"], account["name"]) == ("a/b: c", "a/b: c")
        assert account["balances"]["available"] == account["balances"]["total"] == "7"


async def test_clearing_accounts_are_listed_by_domain(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        assert (await house.ledger.get(CLEARING)).json() == {"accounts": []}
        await house.open_account()
        accounts = [await opened(house, domain) for domain in ("b", "a.b", "a", "B")]
        found = (await house.ledger.get(CLEARING)).json()["accounts"]
        assert sorted(found, key=lambda one: str(one["id"])) == sorted(
            accounts, key=lambda one: str(one["id"])
        )
        domains = [one["domain"] for one in found]
        rows = await house.database.fetch(
            "SELECT d FROM unnest($1::text[]) AS d ORDER BY d", domains
        )
        assert domains == [row["d"] for row in rows]


async def test_what_is_no_clearing_account_is_not_found_and_bad_bodies_open_none(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        for path in ("domain/nobody", "clr_nobody", ALICE, "domain/did:key:alice"):
            answer = await house.ledger.get(f"{CLEARING}/{path}")
            assert refusal(answer) == (404, "NOT_FOUND", None), path
        bodies = ["", "null", "[]", "{}", '{"domain":"d"}', '{"name":"n"}']
        bodies += ['{"domain":" ","name":"n"}', '{"domain":"d","name":7}']
        bodies += [f'{{"domain":"{"d" * 256}","name":"n"}}']
        for body in bodies:
            answer = await house.ledger.post(CLEARING, content=body)
            assert refusal(answer) == (400, "INVALID_REQUEST", None), body
        assert (await house.ledger.get(CLEARING)).json() == {"accounts": []}


async def test_a_clearing_account_seen_as_an_account_has_its_real_balances(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        await moved(house, "k1", "did:key:alice", "clearing:clawsettle.payouts", "7")
        account = (await house.ledger.get(f"/accounts/id/{PAYOUTS}")).json()
        clearing = (await house.ledger.get(f"{CLEARING}/{PAYOUTS}")).json()
        assert account["did"] == "did:internal:clearing:clawsettle.payouts"
        assert account["balances"] == clearing["balances"]
        assert account["balances"]["available"] == "7"
        answer = await house.ledger.get(f"/accounts/{account['did']}")
        assert refusal(answer) == (400, "INVALID_DID", None)


async def test_parallel_first_uses_of_a_domain_are_one_account(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(opened, house)
                source, clearing = "did:key:alice", "clearing:clawsettle.payouts"
                nursery.start_soon(moved, house, f"k{number}", source, clearing, "7")
        (account,) = (await house.ledger.get(CLEARING)).json()["accounts"]
        assert account["balances"]["available"] == "70"


async def test_domains_whose_ids_collide_have_accounts_of_their_own(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        first, second = await opened(house, "Aa"), await opened(house, "BB")
        assert second["id"].startswith(f"{first['id']}_")
        assert await opened(house, "BB") == second


async def test_balances_of_a_did_are_opened_with_its_first_use(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        before = datetime.now(UTC).replace(microsecond=0)
        body = await held_by(house, did="did:key:alice")
        assert list(body) == ["did", "currency", "buckets", "as_of"]
        assert (body["did"], body["currency"], body["buckets"]) == ("did:key:alice", "USD", NONE)
        assert body["as_of"].endswith("Z")
        assert datetime.fromisoformat(body["as_of"]) >= before
        assert (await house.ledger.get(f"/accounts/id/{ALICE}")).status_code == 200
        await recorded(house, "k1")
        await moved(house, "k2", "did:key:alice", "did:key:alice", "300", "AH")
        expected = {**NONE, "A": "700", "H": "300"}
        for did in ("did:key:alice", f"did:claw:account:{ALICE}"):
            assert (await held_by(house, did=did))["buckets"] == expected
        for did in ("did:key:", "did:internal:clearing:d1", "clearing:d1", ALICE):
            answer = await house.ledger.get("/v1/balances", params={"did": did})
            assert refusal(answer) == (400, "INVALID_DID", None), did
        answer = await house.ledger.get("/v1/balances?did=did:claw:account:acc_nobody")
        assert refusal(answer) == (404, "NOT_FOUND", None)


async def test_without_a_did_the_balances_are_those_of_all_accounts(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        for query in ({}, {"did": ""}):
            body = await held_by(house, **query)
            assert (body["did"], body["currency"], body["buckets"]) == (None, "USD", NONE)
        await funded(house)
        await funded(house, "did:key:bob", "50")
        await moved(house, "k1", "did:key:bob", "clearing:d1", "20", "AF")
        await moved(house, "k2", "did:key:alice", "did:key:alice", "300", "AH")
        totals = (await held_by(house))["buckets"]
        assert totals == {**NONE, "A": "730", "H": "300", "F": "20"}
