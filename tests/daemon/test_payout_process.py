"""Processes that are killed in the middle of many payouts, and the one that comes after them."""

import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import trio
from attrs import define

from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import ProviderStatus
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.payouts import Payouts
from tests.daemon.process import DaemonProcess, Json, daemon_process
from tests.domain.payout_cases import EVENT_TYPES, SCHEDULE
from tests.house import payin
from tests.payouts import at_rest, ledger_stages, payout_event
from tests.storage.books import faults

COUNT, FUNDS_MINOR, AMOUNT_MINOR = 80, 1_000_000, 1200
QUICK = {
    f"CLAWSETTLE_{section}__{key}": value
    for section, timeout in (("FORWARDING", "ATTEMPT_TIMEOUT_S"), ("PAYOUTS", "STEP_TIMEOUT_S"))
    for key, value in (
        ("LEASE_S", "2"),
        (timeout, "0.9"),
        ("POLL_S", "0.1"),
        ("RETRY_BASE_S", "1"),
        ("RETRY_MAX_S", "1"),
    )
}


@define(eq=False)
class Caller:
    """Somebody who orders payouts of one account from whichever daemon runs."""

    client: httpx.AsyncClient
    database: Database
    account_id: str = ""

    async def post(
        self, daemon: DaemonProcess, path: str, body: Json, key: str = ""
    ) -> httpx.Response:
        headers = {
            "authorization": f"Bearer {daemon.facts['admin_key']}",
            "idempotency-key": key,
        }
        return await self.client.post(daemon.facts["base_url"] + path, json=body, headers=headers)

    async def open_account(self, daemon: DaemonProcess) -> None:
        opened = await daemon.ledger(
            self.client, "POST", "/accounts", json={"did": "did:key:alice"}
        )
        self.account_id = opened["id"]
        funds = payin("evt_funds", self.account_id, amount_minor=FUNDS_MINOR)
        assert (await daemon.deliver(self.client, funds)).status_code == 200
        body = {"account_id": self.account_id}
        onboarded = await self.post(daemon, "/v1/payouts/connect/onboard", body)
        assert onboarded.status_code == 201

    async def create(self, daemon: DaemonProcess, number: int) -> Json:
        body = {
            "account_id": self.account_id,
            "amount_minor": str(AMOUNT_MINOR),
            "currency": "USD",
        }
        answer = await self.post(daemon, "/v1/payouts", body, f"key_{number}")
        view: Json = answer.json()["payout"]
        return view

    async def tell(self, daemon: DaemonProcess, number: int) -> None:
        """Tell that a payout was paid, every second one, or else that it failed."""
        payout = (await self.stored())[number]
        status = ProviderStatus.PAID if number % 2 else ProviderStatus.FAILED
        told = payout_event(EVENT_TYPES[status], f"evt_{number}_{status}", payout.view())
        answer = await daemon.deliver(self.client, told)
        assert answer.status_code == 200, answer.text

    async def stored(self) -> dict[int, Payout]:
        rows = await self.database.fetch("SELECT payout_id FROM payout")
        found = await Payouts(self.database, SCHEDULE).by_ids(row["payout_id"] for row in rows)
        return {int(one.idempotency_key.split("_")[1]): one for one in found.values()}


async def killed_during(
    daemon: DaemonProcess, work: Callable[[DaemonProcess, int], Awaitable[object]]
) -> set[int]:
    """Do the work of all payouts at once, and kill the daemon early; return what was answered."""
    answered: set[int] = set()

    async def one(number: int) -> None:
        try:
            await work(daemon, number)
        except httpx.HTTPError:
            return
        answered.add(number)
        if len(answered) == COUNT // 4:
            daemon.signal(signal.SIGKILL)

    async with trio.open_nursery() as nursery:
        for number in range(COUNT):
            nursery.start_soon(one, number)
    await daemon.ended(5)
    return answered


async def test_payouts_under_way_survive_kill_9_and_are_moved_once(
    tmp_path: Path, database_url: str
) -> None:
    def start() -> AbstractAsyncContextManager[DaemonProcess]:
        return daemon_process(tmp_path, "--database-url", database_url, environ=QUICK)

    async with open_database(database_url) as database, httpx.AsyncClient(timeout=30) as client:
        caller = Caller(client, database)
        async with start() as daemon:
            await caller.open_account(daemon)
            answered = await killed_during(daemon, caller.create)
        assert (await caller.stored()).keys() >= answered
        async with start() as daemon:
            for number in range(COUNT):
                assert (await caller.create(daemon, number))["status"] == "submitted"
            await killed_during(daemon, caller.tell)
        async with start() as daemon:
            for number in range(COUNT):
                await caller.tell(daemon, number)
            await at_rest(database)
            account = await daemon.ledger(client, "GET", f"/accounts/id/{caller.account_id}")
        ends = {number: str(one.status) for number, one in (await caller.stored()).items()}
        assert ends == {number: "paid" if number % 2 else "failed" for number in range(COUNT)}
        left_minor = FUNDS_MINOR - AMOUNT_MINOR * COUNT // 2
        assert account["balances"]["available"] == str(left_minor)
        assert account["balances"]["held"] == "0"
        for payout in (await caller.stored()).values():
            stages = ["lock", "finalize" if payout.status is PayoutStatus.PAID else "rollback"]
            assert await ledger_stages(database, payout.payout_id) == stages
        assert await faults(database) == []
