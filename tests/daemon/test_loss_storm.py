"""Loss events that pile up while no target answers, and how they are told when all do again.

``LOSS_STORM_EVENTS`` sets how many; with ``-s`` the figures are printed.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import trio
from attrs import asdict, define, field

from clawsettle.config import Secret, TargetAddress
from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.http1 import Reply, Request, serving
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.loss_events import LossEvents
from tests.daemon.process import DaemonProcess, daemon_process
from tests.losses import answer, loss, told_by

EVENTS = int(os.environ.get("LOSS_STORM_EVENTS", "2000"))
IN_FLIGHT = 32
OUT_OF_ORDER_MAX = 4 * IN_FLIGHT
"""How far a delivery may be from its place: what is claimed together is sent in any order."""

ATTEMPTS_MAX = 4
PASSED_MAX = 8 * IN_FLIGHT
"""How many of the backlog may be delivered to a target before an event that comes meanwhile."""

GROWTH_MAX_MIB = 48
_BATCH, _NEWCOMERS, _PROBES = 500, 5, 3
_DRAINED_MAX_S = 120 + EVENTS / 50
_WORDS = ("hold", "risk_hold", "claim", "adjustment")
_DUE = """
    SELECT target, loss_event_id FROM loss_delivery WHERE due_at IS NOT NULL
    ORDER BY due_at, delivery_id
"""


@define(eq=False)
class Targets:
    """All five targets: they are down, or do at once what they are asked for.

    ``told`` counts how often each was told of which event, in order, ``refused`` its other calls.
    """

    base_url: str
    is_down: bool = True
    told: dict[Target, Counter[str]] = field(factory=lambda: {t: Counter() for t in Target})
    refused: Counter[Target] = field(factory=Counter)

    @property
    def environ(self) -> Mapping[str, str]:
        """Return the environment of a daemon that tells them."""
        key = Secret("storm")
        others = [target for target in Target if target is not Target.LEDGER]
        return {
            "CLAWSETTLE_LEDGER__MODE": "http",
            "LEDGER_BASE_URL": f"{self.base_url}/ledger",
            "LEDGER_ADMIN_KEY": key.reveal(),
            **told_by({t: TargetAddress(f"{self.base_url}/{t}", key) for t in others}),
        }

    async def answer(self, request: Request) -> Reply:
        """Answer a call."""
        target = Target(request.path.split("/")[1])
        if self.is_down:
            self.refused[target] += 1
            return answer(503, {"error": "UNAVAILABLE", "message": "down"})
        event_id = json.loads(request.body)["source_loss_event_id"]
        self.told[target][event_id] += 1
        done = {"source_loss_event_id": event_id, "status": "active"}
        return answer(201, dict.fromkeys(_WORDS, done))


@define(eq=False)
class Figures:
    """What a storm came to; memory in MiB of the daemon."""

    events: int
    rss_before_mib: float
    rss_peak_mib: float = 0.0
    refused_max: int = 0
    attempts_max: int = 0
    tried_count: int = 0
    drained_s: float = 0.0
    posts_per_s: float = 0.0
    displaced_max: int = 0
    new_within_s: list[float] = field(factory=list)
    passed_max: int = 0


async def test_a_storm_drains_in_due_order_and_starves_nobody_and_memory_stays_flat(
    tmp_path: Path, database_url: str
) -> None:
    async with (
        serving(Targets) as targets,
        open_database(database_url, statement_timeout_s=60) as database,
        daemon_process(
            tmp_path,
            "--database-url",
            database_url,
            environ={
                **targets.environ,
                "CLAWSETTLE_LOSS_EVENTS__IN_FLIGHT_MAX": str(IN_FLIGHT),
                "CLAWSETTLE_LOSS_EVENTS__BREAKER_OPEN_S": "0.5",
                "CLAWSETTLE_LOSS_EVENTS__POLL_S": "0.1",
                "CLAWSETTLE_LOSS_EVENTS__RETRY_BASE_S": "2",
            },
        ) as daemon,
        trio.open_nursery() as nursery,
    ):
        figures = Figures(EVENTS, _resident_mib(daemon))
        nursery.start_soon(_watch_memory, daemon, figures)
        await _queue(database)
        await _see_probes(targets)
        figures.refused_max = max(targets.refused.values())
        due = await _due(database)
        assert {target: len(events) for target, events in due.items()} == dict.fromkeys(
            Target, EVENTS
        )
        targets.is_down = False
        begun = trio.current_time()
        await _tell_of_newcomers(daemon, targets, figures)
        await _drained(database)
        figures.drained_s = trio.current_time() - begun
        figures.posts_per_s = len(Target) * EVENTS / figures.drained_s
        figures.attempts_max, tried = await _tried_in_vain(database)
        figures.tried_count = len(tried)
        figures.displaced_max = max(
            _displaced([i for i in due[t] if (t, i) not in tried], [*targets.told[t]])
            for t in Target
        )
        nursery.cancel_scope.cancel()
    print(asdict(figures))
    for told in targets.told.values():
        assert (len(told), told.total()) == (EVENTS + _NEWCOMERS, EVENTS + _NEWCOMERS)
    assert figures.attempts_max <= ATTEMPTS_MAX
    assert figures.displaced_max <= OUT_OF_ORDER_MAX
    assert figures.passed_max <= PASSED_MAX
    assert figures.rss_peak_mib - figures.rss_before_mib < GROWTH_MAX_MIB


async def _queue(database: Database) -> None:
    """Record events as daemons do that leave them to others."""
    repository = LossEvents(database, 30.0)
    for first in range(0, EVENTS, _BATCH):
        requests = [
            loss(f"k{n}", metadata={"escrow_id": f"esc_{n}", "bounty_id": f"bty_{n}"})
            for n in range(first, min(first + _BATCH, EVENTS))
        ]
        await repository.record(requests, configured=[*Target], seats={})


async def _see_probes(targets: Targets) -> None:
    """Wait until every target was tried again a few times, in vain."""
    seen = Counter(targets.refused)
    with trio.fail_after(30):
        while any(targets.refused[t] < seen[t] + _PROBES for t in Target):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def _due(database: Database) -> dict[Target, list[str]]:
    """Return the events that each target is to be told of, in due order."""
    due: dict[Target, list[str]] = {target: [] for target in Target}
    for row in await database.fetch(_DUE):
        due[Target(row["target"])].append(row["loss_event_id"])
    return due


async def _tried_in_vain(database: Database) -> tuple[int, set[tuple[Target, str]]]:
    """Return the most attempts of a delivery, and those with more than one: they came later."""
    rows = await database.fetch("SELECT * FROM loss_delivery WHERE attempts > 1")
    most = max(row["attempts"] for row in rows)
    return most, {(Target(row["target"]), row["loss_event_id"]) for row in rows}


async def _tell_of_newcomers(daemon: DaemonProcess, targets: Targets, figures: Figures) -> None:
    """Record events during the drain, and see when all targets were told of each."""
    async with httpx.AsyncClient(base_url=daemon.facts["base_url"], timeout=30) as client:
        for number in range(_NEWCOMERS):
            share = (number + 1) / (_NEWCOMERS + 1) / 2
            with trio.fail_after(_DRAINED_MAX_S):
                while len(targets.told[Target.ESCROW]) < share * EVENTS:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            order = loss(f"new{number}")
            recorded_at = time.monotonic()
            before = {target: len(told) for target, told in targets.told.items()}
            answered = await client.post(
                "/v1/loss-events",
                json={
                    "source_service": order.source_service,
                    "source_event_id": order.source_event_id,
                    "account_did": order.account_did,
                    "amount_minor": "250",
                    "currency": "USD",
                    "reason_code": "chargeback",
                    "metadata": {"escrow_id": f"esc_n{number}", "bounty_id": f"bty_n{number}"},
                },
                headers={
                    "authorization": f"Bearer {daemon.facts['admin_key']}",
                    "idempotency-key": f"new{number}",
                },
            )
            assert answered.status_code == 201, answered.text
            event_id = answered.json()["event"]["loss_event_id"]
            with trio.fail_after(30):
                while any(event_id not in told for told in targets.told.values()):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            figures.new_within_s.append(time.monotonic() - recorded_at)
            places = {target: [*told].index(event_id) for target, told in targets.told.items()}
            passed = max(places[target] - before[target] for target in Target)
            figures.passed_max = max(figures.passed_max, passed)


async def _drained(database: Database) -> None:
    with trio.fail_after(_DRAINED_MAX_S):
        while await database.fetch(f"{_DUE} LIMIT 1"):  # noqa: ASYNC110 - polling is enough
            await trio.sleep(0.2)


def _displaced(due: Sequence[str], told: Sequence[str]) -> int:
    """Return by how many places the one that was most out of order was."""
    places = {event_id: place for place, event_id in enumerate(due)}
    in_time = [places[event_id] for event_id in told if event_id in places]
    return max(abs(place - expected) for place, expected in enumerate(in_time))


async def _watch_memory(daemon: DaemonProcess, figures: Figures) -> None:
    while True:
        figures.rss_peak_mib = max(figures.rss_peak_mib, _resident_mib(daemon))
        await trio.sleep(0.2)


def _resident_mib(daemon: DaemonProcess) -> float:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
