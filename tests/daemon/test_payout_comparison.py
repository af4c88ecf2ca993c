"""A day compared on a whole daemon: its own rows, its ledger, and a Stripe of the test's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import orjson
from attrs import evolve

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.actors.payout_comparer import PayoutComparer
from clawsettle.config import Secret
from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.comparison_report import FIELDS, ComparisonReport
from clawsettle.domain.payout_reports import ReportCut
from clawsettle.sandbox.stripe_quirks import Fate
from clawsettle.sandbox.stripe_sandbox import StripeSandbox, open_sandbox
from clawsettle.storage.payout_comparison import PayoutPast
from tests.house import ADMIN, House, open_house, payin, settings

PATH = "/v1/reconciliation/payouts/compare"


@asynccontextmanager
async def site(database_url: str) -> AsyncIterator[tuple[House, StripeSandbox, str]]:
    """A daemon on a Stripe of its own, with an account that has been onboarded there."""
    async with open_sandbox(fate=Fate.SILENT) as sandbox:
        configured = settings(
            payouts={
                "provider": "stripe",
                "onboard_refresh_url": "https://shop.example/again",
                "onboard_return_url": "https://shop.example/done",
            },
            stripe={"secret_key": Secret("sk_test_1"), "api_base_url": sandbox.base_url},
        )
        async with open_house(database_url, configured) as house:
            account_id = await house.open_account()
            funds = payin("evt_funds", account_id, amount_minor=5000)
            assert (await house.deliver(funds)).status_code == 200
            for step in range(2):
                answer = await house.settle.post(
                    "/v1/payouts/connect/onboard", json={"account_id": account_id}, headers=ADMIN
                )
                connected = answer.json()["account"]
                if step == 0:
                    sandbox.complete_onboarding(connected["connect_account_id"])
            assert connected["onboarding_status"] == "active"
            yield house, sandbox, account_id


async def _pay(house: House, account_id: str, key: str) -> str:
    answer = await house.settle.post(
        "/v1/payouts",
        json={"account_id": account_id, "amount_minor": "1200", "currency": "USD"},
        headers={**ADMIN, "idempotency-key": key},
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["payout"]["external_payout_id"])


async def _heed(house: House, sandbox: StripeSandbox) -> None:
    for told in list(sandbox.events):
        assert (await house.deliver(orjson.loads(orjson.dumps(told)))).status_code == 200


async def _compare(house: House, as_of: datetime | None = None) -> ComparisonReport:
    """Compare today as of tomorrow, when nothing that is under way now may be so any more."""
    past = PayoutPast(house.database)
    actors = [supervised.actor for supervised in house.parts.actors]
    (keeper,) = (actor for actor in actors if isinstance(actor, LedgerKeeper))
    assert house.parts.payouts is not None
    now = await past.read_at()
    comparer = PayoutComparer(past, keeper, house.parts.payouts.provider)
    return await comparer.compare(ReportCut(now.date(), as_of or now + timedelta(days=1)))


async def test_a_day_on_which_all_agree_has_no_mismatch(database_url: str) -> None:
    async with site(database_url) as (house, sandbox, account_id):
        sandbox.state.move_payout(await _pay(house, account_id, "paid"), "paid")
        sandbox.state.move_payout(await _pay(house, account_id, "failed"), "failed")
        await _pay(house, account_id, "waits")
        await _heed(house, sandbox)
        report = await _compare(house)
        assert [one.view() for one in report.mismatches] == []
        counts = {name: of["count"] for name, of in report.view()["inputs"].items()}  # type: ignore[attr-defined]
        assert counts == {"ours": 3, "ledger": 5, "provider": 3}
        assert await _compare(house, report.as_of) == report


async def test_a_payout_that_was_sent_days_before_it_was_paid_is_found_there(
    database_url: str,
) -> None:
    async with site(database_url) as (house, sandbox, account_id):
        external_id = await _pay(house, account_id, "slow")
        sandbox.state.move_payout(external_id, "paid")
        await _heed(house, sandbox)
        await house.database.fetch(
            "WITH older AS (UPDATE payout SET created_at = created_at - interval '4 days',"
            " submitted_at = submitted_at - interval '3 days')"
            " UPDATE payout_audit SET at = at - interval '3 days'"
            " WHERE to_status IN ('initiated', 'sending', 'submitted')"
        )
        made = sandbox.state.payouts[external_id]
        days_s = int(timedelta(days=3).total_seconds())
        older = {**made.content, "created": made.content["created"] - days_s}
        sandbox.state.payouts[external_id] = evolve(made, content=older)
        report = await _compare(house)
        assert [one.view() for one in report.mismatches] == []
        counts = {name: of["count"] for name, of in report.view()["inputs"].items()}  # type: ignore[attr-defined]
        assert counts == {"ours": 1, "ledger": 2, "provider": 1}


async def test_what_was_paid_after_the_cut_is_no_finding(database_url: str) -> None:
    async with site(database_url) as (house, sandbox, account_id):
        external_id = await _pay(house, account_id, "waits")
        await house.database.fetch(
            "WITH older AS (UPDATE payout SET created_at = created_at - interval '3 hours',"
            " status_at = status_at - interval '3 hours',"
            " submitted_at = submitted_at - interval '3 hours')"
            " UPDATE payout_audit SET at = at - interval '3 hours'"
        )
        as_of = await PayoutPast(house.database).read_at()
        sandbox.state.move_payout(external_id, "paid")
        await _heed(house, sandbox)
        report = await _compare(house, as_of)
        # Its events of the ledger are of now, so all that is compared is the provider's word.
        assert [one for one in report.mismatches if one.record == "provider"] == []


async def test_each_difference_is_found(database_url: str) -> None:
    async with site(database_url) as (house, sandbox, account_id):
        unheard = await _pay(house, account_id, "unheard")
        sandbox.state.move_payout(unheard, "paid")
        lost = await _pay(house, account_id, "lost")
        del sandbox.state.payouts[lost]
        doubled = await _pay(house, account_id, "doubled")
        twin = sandbox.state.payouts[doubled]
        sandbox.state.payouts["po_twin"] = evolve(twin, content={**twin.content, "id": "po_twin"})
        report = await _compare(house)
        found = [(str(one.kind), str(one.record), one.subject) for one in report.mismatches]
        assert found == [
            ("duplicate", "provider", "payout"),
            ("missing", "provider", lost),
            ("state", "provider", unheard),
        ]
        assert report.view()["artifact_sha256"] == sha256_hex(
            canonical_json({k: v for k, v in report.view().items() if k != "artifact_sha256"})
        )


async def test_the_route_compares_as_of_a_minute_ago(database_url: str) -> None:
    async with site(database_url) as (house, _sandbox, account_id):
        await _pay(house, account_id, "fresh")
        today = (await PayoutPast(house.database).read_at()).date()
        asked = {"date": str(today)}
        assert (await house.settle.get(PATH, params=asked)).status_code == 401
        answer = await house.settle.get(PATH, params=asked, headers=ADMIN)
        assert answer.status_code == 200, answer.text
        report = answer.json()
        assert report["inputs"]["ours"]["count"] == 0
        assert report["mismatches"] == []
        written = await house.settle.get(
            PATH, params={**asked, "format": "csv", "as_of": report["as_of"]}, headers=ADMIN
        )
        assert written.headers["x-clawsettle-report-sha256"] == report["artifact_sha256"]
        assert written.text == ",".join(FIELDS)
        late = await house.settle.get(
            PATH, params={**asked, "as_of": "2999-01-01T00:00:00Z"}, headers=ADMIN
        )
        assert (late.status_code, late.json()["details"]) == (400, {"field": "as_of"})
