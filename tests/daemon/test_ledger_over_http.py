"""A daemon whose ledger is behind HTTP, and behind everything that can go wrong on the way."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from clawsettle.storage.bridge import Database
from tests.clients import faulty as faults
from tests.clients.faulty import Fault, faulty
from tests.clients.ledgers import FAULTS, QUIET, ledger_port, remote
from tests.daemon.process import daemon_process
from tests.house import House, open_house, payin

ALICE = "acc_32ca986a"
EVENTS, AT_ONCE, FAULTY_REQUESTS = 150, 32, 300
_ANY_FAULT: tuple[Fault, ...] = (
    *FAULTS,
    faults.hang,
    faults.delay_answer,
    faults.promise_more,
    faults.dribble,
    faults.reset,
    faults.answering(401, b'{"code":"UNAUTHORIZED"}'),
    faults.answering(404, b'{"code":"NOT_FOUND"}'),
    faults.answering(429, b""),
    faults.answering(503, b"<html>down</html>"),
    faults.pouring(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", b" " * 9999),
)


def bad_day(seed: int) -> Iterator[Fault]:
    """Two requests of three meet a fault; then the day is over."""
    drawn = random.Random(seed)
    for _ in range(FAULTY_REQUESTS):
        yield drawn.choice(_ANY_FAULT) if drawn.random() < 2 / 3 else faults.pass_on


@pytest.mark.parametrize("seed", [1, 2])
async def test_after_a_bad_day_every_event_is_in_the_far_ledger_once(
    seed: int, database_url: str, other_database_url: str
) -> None:
    async with (
        open_house(other_database_url, QUIET) as far,
        ledger_port(far) as base_url,
        faulty(base_url, bad_day(seed)) as proxy,
        open_house(
            database_url,
            remote(
                proxy.base_url,
                poll_s=0.05,
                retry_base_s=1,
                retry_max_s=1,
                attempt_timeout_s=0.4,
                lease_s=1.0,
            ),
        ) as near,
    ):
        accounts = [await far.open_account(f"did:key:{name}") for name in ("alice", "bob", "carol")]
        events = [payin(f"evt_{n}", accounts[n % 3], amount_minor=n + 1) for n in range(EVENTS)]
        statuses = Counter[int]()
        waiting = iter(events)

        async def deliver() -> None:
            for event in waiting:
                statuses[(await near.deliver(event)).status_code] += 1

        async with trio.open_nursery() as senders:
            for _ in range(AT_ONCE):
                senders.start_soon(deliver)
        assert set(statuses) == {200, 502}
        with trio.fail_after(30):
            while await _open_count(near.database):  # noqa: ASYNC110 - rows tell nobody
                await trio.sleep(0.02)

        assert len(proxy.requests) > EVENTS
        await _check_forwarded_once(near, far)
        for index, account_id in enumerate(accounts):
            expected = sum(n + 1 for n in range(EVENTS) if n % 3 == index)
            assert await far.available(account_id) == expected


async def _open_count(database: Database) -> int:
    (row,) = await database.fetch(
        "SELECT count(*) AS open FROM settlement_outbox WHERE due_at IS NOT NULL"
    )
    return int(row["open"])


async def _check_forwarded_once(near: House, far: House) -> None:
    """Every row is forwarded and nobody's, and names the one settlement of its payment."""
    rows = await near.database.fetch("SELECT * FROM settlement_outbox")
    assert len(rows) == EVENTS
    assert {(row["state"], row["lease_token"], row["due_at"]) for row in rows} == {
        ("forwarded", None, None)
    }
    settlements = await far.database.fetch("SELECT * FROM ledger_settlement")
    assert len(settlements) == EVENTS
    assert {row["settlement_id"] for row in rows} == {row["settlement_id"] for row in settlements}
    (journal,) = await far.database.fetch("SELECT count(*) AS events FROM ledger_event")
    assert journal["events"] == EVENTS


async def test_an_address_in_the_environment_alone_switches_nothing(
    tmp_path: Path, database_url: str
) -> None:
    async with (
        faulty(None, []) as elsewhere,
        httpx.AsyncClient(timeout=30) as client,
        daemon_process(
            tmp_path,
            "--database-url",
            database_url,
            environ={"LEDGER_BASE_URL": elsewhere.base_url},
        ) as daemon,
    ):
        account = await daemon.ledger(client, "POST", "/accounts", json={"did": "did:key:alice"})
        answer = await daemon.deliver(client, payin("evt_1", account["id"]))
        assert answer.json()["forwarded_to_ledger"] is True
        assert await daemon.available(client, ALICE) == 2500
        assert daemon.ready["ledger_address"] != elsewhere.base_url
        assert elsewhere.connection_count == 0
    assert "ledger_base_url_unused" in [line["event"] for line in daemon.lines()]


async def test_the_mode_switches_to_the_address(tmp_path: Path, database_url: str) -> None:
    async with (
        faulty(None, [faults.answering(503, b"")]) as elsewhere,
        httpx.AsyncClient(timeout=30) as client,
        daemon_process(
            tmp_path,
            "--database-url",
            database_url,
            environ={
                "CLAWSETTLE_LEDGER__MODE": "http",
                "LEDGER_BASE_URL": elsewhere.base_url,
                "LEDGER_ADMIN_KEY": "key_of_elsewhere",
            },
        ) as daemon,
    ):
        answer = await daemon.deliver(client, payin("evt_1", ALICE))
        assert answer.status_code == 502
        assert answer.json()["details"]["ledger_status"] == 503
        assert daemon.ready["ledger_address"] == elsewhere.base_url
        (head,) = elsewhere.heads
        assert "authorization: Bearer key_of_elsewhere" in head
