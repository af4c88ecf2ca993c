"""Processes that are killed or stopped in the middle of netting, and those that come after them."""

import signal
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from random import Random

import httpx
import trio
from attrs import define

from clawsettle.domain.netting import RunStatus
from clawsettle.storage.bridge import Database, open_database
from tests.daemon.process import DaemonProcess, Json, daemon_process
from tests.house import payin
from tests.netting import SOURCE, TARGET, queue, request
from tests.storage.books import faults
from tests.storage.netting_books import netting_faults

ROUNDS, FAR_ROUNDS = 20, 4
PAYOUTS, ACCOUNTS = 200, 120
LONG = 3000
ENDS = ("applied", "failed")
FUNDS_MINOR = 1_000_000_000
QUICK = {
    "CLAWSETTLE_NETTING__LEASE_S": "1",
    "CLAWSETTLE_NETTING__TRANSFER_TIMEOUT_S": "0.4",
    "CLAWSETTLE_NETTING__POLL_S": "0.1",
    "CLAWSETTLE_NETTING__BATCH_MAX": "16",
    "CLAWSETTLE_NETTING__IN_FLIGHT_MAX": "4",
}


@define(eq=False)
class Caller:
    """Somebody who has payouts netted by whichever daemon runs, each run under its number's key."""

    client: httpx.AsyncClient
    database: Database

    async def fund(self, ledger: DaemonProcess) -> None:
        """Put money into the source, for all that will ever be taken out."""
        account = await ledger.ledger(self.client, "POST", "/accounts", json={"did": "did:key:f"})
        funds = payin("evt_funds", account["id"], amount_minor=FUNDS_MINOR)
        assert (await ledger.deliver(self.client, funds)).status_code == 200
        order = {
            "idempotency_key": "funds",
            "currency": "USD",
            "from": {"account": "did:key:f", "bucket": "A"},
            "to": {"account": f"clearing:{SOURCE}", "bucket": "A"},
            "amount_minor": str(FUNDS_MINOR),
        }
        moved = await ledger.ledger(self.client, "POST", "/v1/transfers", json=order)
        assert moved["status"] == "applied"

    async def queue(self, number: int, count: int = PAYOUTS, accounts: int = ACCOUNTS) -> int:
        """Have payouts be paid that nobody has netted; return their sum."""
        made = await queue(
            self.database,
            *(
                (f"{number}:{place}", f"acct_{place % accounts}", 100 + place)
                for place in range(count)
            ),
        )
        return sum(payout.amount_minor for payout in made)

    async def ask(self, daemon: DaemonProcess, number: int) -> httpx.Response:
        headers = {
            "authorization": f"Bearer {daemon.facts['admin_key']}",
            "idempotency-key": f"key_{number}",
        }
        url = f"{daemon.facts['base_url']}/v1/netting/runs"
        return await self.client.post(url, json={"limit": 100_000}, headers=headers)

    async def ask_in_vain(self, daemon: DaemonProcess, number: int) -> None:
        """Ask, and be left without an answer when the daemon dies."""
        with suppress(httpx.HTTPError):
            await self.ask(daemon, number)

    async def insist(self, daemon: DaemonProcess, number: int) -> Json:
        """Ask under the same key until its run is applied."""
        with trio.fail_after(15):
            while True:
                answer = await self.ask(daemon, number)
                told: Json = answer.json()
                if answer.status_code == 409:
                    assert told["code"] == "DUPLICATE_CONFLICT"
                elif answer.status_code in (200, 201) and told["complete"]:
                    return told
                else:
                    assert answer.status_code in (201, 503), answer.text
                await trio.sleep(0.05)

    async def kill_during(self, daemon: DaemonProcess, number: int, after_s: float) -> None:
        """Ask for a run, and kill the daemon so long after that."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ask_in_vain, daemon, number)
            await trio.sleep(after_s)
            daemon.signal(signal.SIGKILL)
            await daemon.ended(5)

    async def status(self, number: int) -> str:
        """Return where a run stands; empty when there is none."""
        rows = await self.database.fetch(
            "SELECT status FROM netting_run WHERE run_id = $1", request(f"key_{number}").run_id
        )
        return rows[0]["status"] if rows else ""

    async def entries(self, number: int) -> Counter[str]:
        """Return how many entries of a run have each status."""
        rows = await self.database.fetch(
            "SELECT status, count(*) AS count FROM netting_entry WHERE run_id = $1 GROUP BY status",
            request(f"key_{number}").run_id,
        )
        return Counter({row["status"]: row["count"] for row in rows})

    async def until(self, number: int, statuses: Iterable[str]) -> str:
        """Wait until a run has one of these statuses."""
        with trio.fail_after(60):
            while (status := await self.status(number)) not in statuses:  # noqa: ASYNC110 - polling
                await trio.sleep(0.02)
        return status

    async def until_applied(self, number: int, count: int) -> None:
        """Wait until so many entries of a run are applied."""
        with trio.fail_after(20):
            while (await self.entries(number))["applied"] < count:  # noqa: ASYNC110 - polling
                await trio.sleep(0.002)

    async def moment(self, number: int) -> str:
        """Tell what a run was at when its daemon died."""
        status, entries = await self.status(number), await self.entries(number)
        if status != RunStatus.RUNNING or not entries["applied"]:
            return status
        return "moving" if entries["applied"] < entries.total() else "moved"

    async def cleared(self, ledger: DaemonProcess) -> tuple[int, int]:
        """Return what is missing in the source, and what is in the target."""
        found = []
        for domain in (SOURCE, TARGET):
            path = f"/clearing/accounts/domain/{domain}"
            account = await ledger.ledger(self.client, "GET", path)
            found.append(int(account["balances"]["available"]))
        return FUNDS_MINOR - found[0], found[1]


def starting(
    tmp_path: Path, database_url: str, **environ: str
) -> AbstractAsyncContextManager[DaemonProcess]:
    arguments = ("--database-url", database_url)
    return daemon_process(tmp_path, *arguments, environ={**QUICK, **environ})


async def test_twenty_runs_survive_kill_9_and_the_same_key_finishes_each(
    tmp_path: Path, database_url: str
) -> None:
    rng, moments = Random(6), Counter[str]()
    async with open_database(database_url) as database, httpx.AsyncClient(timeout=30) as client:
        caller = Caller(client, database)

        async def kill_at_random(daemon: DaemonProcess, number: int) -> int:
            queued_minor = await caller.queue(number)
            # One round in each twentieth of a run.
            await caller.kill_during(daemon, number, length_s * (number - rng.random()) / ROUNDS)
            moments[await caller.moment(number)] += 1
            return queued_minor

        async with starting(tmp_path, database_url) as daemon:
            await caller.fund(daemon)
            swept_minor = await caller.queue(0)
            begun = trio.current_time()
            assert (await caller.ask(daemon, 0)).json()["complete"]
            length_s = trio.current_time() - begun
            swept_minor += await kill_at_random(daemon, 1)
        for number in range(1, ROUNDS + 1):
            async with starting(tmp_path, database_url) as daemon:
                done = await caller.insist(daemon, number)
                assert done["run"]["candidate_count"] == PAYOUTS
                assert len(done["entries"]) == ACCOUNTS
                assert await caller.cleared(daemon) == (swept_minor, swept_minor)
                assert await netting_faults(database) == []
                assert await faults(database) == []
                if number < ROUNDS:
                    swept_minor += await kill_at_random(daemon, number + 1)
    assert moments["moving"] >= ROUNDS // 4, moments


async def test_of_two_daemons_the_other_finishes_the_run_of_the_one_that_was_killed(
    tmp_path: Path, database_url: str
) -> None:
    async with (
        open_database(database_url) as database,
        httpx.AsyncClient(timeout=30) as client,
        starting(tmp_path / "a", database_url) as killed,
        starting(tmp_path / "b", database_url) as other,
    ):
        caller = Caller(client, database)
        await caller.fund(killed)
        swept_minor = await caller.queue(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.ask_in_vain, killed, 1)
            await caller.until_applied(1, ACCOUNTS // 3)
            killed.signal(signal.SIGKILL)
            await killed.ended(5)
        assert await caller.moment(1) == "moving"
        assert await caller.until(1, ENDS) == "applied"
        assert "netting_run_taken_over" in [line["event"] for line in other.lines()]
        assert await caller.cleared(other) == (swept_minor, swept_minor)
        assert await netting_faults(database) == []
        assert await faults(database) == []


async def test_what_a_far_ledger_may_have_been_asked_for_waits_until_the_same_key_is_asked_again(
    tmp_path: Path, database_url: str, other_database_url: str
) -> None:
    rng, held_count = Random(6), 0
    async with (
        open_database(database_url) as database,
        open_database(other_database_url) as ledger_database,
        httpx.AsyncClient(timeout=30) as client,
        daemon_process(tmp_path / "far", "--database-url", other_database_url) as far,
    ):
        caller = Caller(client, database)
        await caller.fund(far)
        near = {
            "CLAWSETTLE_LEDGER__MODE": "http",
            "LEDGER_BASE_URL": far.facts["ledger_base_url"],
            "LEDGER_ADMIN_KEY": far.facts["ledger_admin_key"],
        }
        swept_minor = 0
        for number in range(1, FAR_ROUNDS + 1):
            swept_minor += await caller.queue(number)
            async with (
                starting(tmp_path / "near", database_url, **near) as daemon,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(caller.ask_in_vain, daemon, number)
                await caller.until_applied(number, rng.randrange(ACCOUNTS - 16))
                daemon.signal(signal.SIGKILL)
                await daemon.ended(5)
            async with starting(tmp_path / "near", database_url, **near) as daemon:
                ended = await caller.until(number, ENDS)
                held, applied = await _standing(caller, daemon, number)
                assert (ended == "failed") == bool(held)
                assert applied <= await _events(ledger_database)
                assert held.isdisjoint(key for key, _, _ in await _events(ledger_database))
                held_count += len(held)
                done = await caller.insist(daemon, number)
                assert done["deduped"] is not bool(held)
                _, applied = await _standing(caller, daemon, number)
                assert applied <= await _events(ledger_database)
            assert await caller.cleared(far) == (swept_minor, swept_minor)
            assert await netting_faults(database, ledger_is_here=False) == []
            assert await faults(ledger_database) == []
    assert held_count


async def _standing(
    caller: Caller, daemon: DaemonProcess, number: int
) -> tuple[set[str], set[tuple[str, str, int]]]:
    """Return the keys of the entries that wait for somebody, and of all others the events."""
    shown = await caller.client.get(
        f"{daemon.facts['base_url']}/v1/netting/runs/{request(f'key_{number}').run_id}",
        headers={"authorization": f"Bearer {daemon.facts['admin_key']}"},
    )
    entries = shown.json()["entries"]
    held = {one["idempotency_key"] for one in entries if one.get("state") == "unknown"}
    applied = {
        (one["idempotency_key"], one["ledger_event_id"], int(one["amount_minor"]))
        for one in entries
        if one["status"] == "applied"
    }
    assert len(held) + len(applied) == ACCOUNTS
    return held, applied


async def _events(ledger_database: Database) -> set[tuple[str, str, int]]:
    """Return key, id and amount of each event of the ledger."""
    rows = await ledger_database.fetch("SELECT * FROM ledger_event")
    return {(row["idempotency_key"], row["event_id"], row["amount_minor"]) for row in rows}


async def test_sigterm_leaves_a_long_run_to_another_daemon_at_once(
    tmp_path: Path, database_url: str
) -> None:
    drain_s = 5.0
    slow: Mapping[str, str] = {
        "CLAWSETTLE_DAEMON__DRAIN_S": str(drain_s),
        "CLAWSETTLE_NETTING__LEASE_S": "600",
        # What a stop waits for first are requests; the run must not end meanwhile.
        "CLAWSETTLE_NETTING__ANSWER_DEADLINE_S": "0.1",
    }
    async with open_database(database_url) as database, httpx.AsyncClient(timeout=30) as client:
        caller = Caller(client, database)
        swept_minor = await caller.queue(1, LONG, LONG)
        async with starting(tmp_path, database_url, **slow) as daemon:
            await caller.fund(daemon)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller.ask, daemon, 1)
                await caller.until_applied(1, 1)
                daemon.signal(signal.SIGTERM)
                begun = trio.current_time()
                assert await daemon.ended(2 * drain_s) == 0
                assert trio.current_time() - begun < drain_s
        (left,) = await database.fetch(
            "SELECT status, lease_token, due_at <= now() AS is_due FROM netting_run"
        )
        assert dict(left) == {"status": "running", "lease_token": None, "is_due": True}
        entries = await caller.entries(1)
        assert entries.keys() == {"applied", "pending"}
        async with starting(tmp_path, database_url, **slow) as second:
            assert await caller.until(1, ENDS) == "applied"
            assert await caller.cleared(second) == (swept_minor, swept_minor)
        assert await netting_faults(database) == []
        assert await faults(database) == []
