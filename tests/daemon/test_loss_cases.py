"""What comes of each thing that a target can do: the rows of docs/reference/loss-cases.md."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from attrs import evolve, frozen
from structlog.testing import capture_logs

from clawsettle.config import LedgerSettings, Secret, Settings
from clawsettle.domain.loss_events import Operation, Target, delivery_id
from clawsettle.sandbox.http1 import serving
from tests.clients.faulty import FaultyServer, answer_twice, faulty
from tests.daemon.loss_parties import (
    AMOUNT_MINOR,
    FIRST,
    KEYS,
    NOBODY,
    SECOND,
    Case,
    Parties,
    SecondAnswer,
)
from tests.house import ADMIN, House, Json, open_house
from tests.losses import Targets, loss_body, loss_settings, until

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "loss-cases.md"
Cells = Mapping[str, str]


def rows(heading: str) -> list[Any]:
    """The rows of the table under a heading, by the names of their columns."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    names, _, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    found = [dict(zip(names, row, strict=True)) for row in cells]
    return [pytest.param(row, id=f"{row['Target']}: {row['It answers']}") for row in found]


@frozen(eq=False)
class Scene:
    """A house in which a case is played."""

    case: Case
    house: House
    proxy: FaultyServer
    logs: Sequence[Mapping[str, Any]]

    async def record(self, key: str = KEYS[0]) -> None:
        """Record an event that tells all five, and wait until each has been tried."""
        named = {"escrow_id": f"esc_{key}", "bounty_id": f"bty_{key}"}
        body = loss_body(key, amount_minor=str(AMOUNT_MINOR), metadata=named)
        recorded = await self._post("/v1/loss-events", key, body)
        assert recorded.status_code == 201, recorded.text

    async def resolve(self, event_id: str = FIRST) -> int:
        """Ask for an event to be resolved, wait until each target has been tried."""
        resolved = await self._post(f"/v1/loss-events/{event_id}/resolve", f"r_{event_id}", {})
        if resolved.status_code != 201:
            assert resolved.json()["code"] == "LOSS_EVENT_NOT_READY"
            assert resolved.json()["details"]["open_targets"] == [self.case.target]
        return resolved.status_code

    async def show(self, event_id: str = FIRST) -> Json:
        found = await self.house.settle.get(f"/v1/loss-events/{event_id}", headers=ADMIN)
        shown: Json = found.json()
        return shown

    async def grow_old(self) -> None:
        """Have all deliveries be open for an hour."""
        await self.house.database.fetch(
            "UPDATE loss_delivery SET opened_at = opened_at - interval '1 hour'"
        )

    async def told(self) -> Cells:
        """What has come of the case's delivery, in the words of the page."""
        young = await self.show()
        await self.grow_old()
        alerts = [self._entry(found)["alert"] for found in (young, await self.show())]
        entry, words = self._entry(young), [alert and f"`{alert}`" for alert in alerts]
        is_as_stored = entry["state"] == entry["status"]
        return {
            "Delivery": f"`{entry['status']}`" + ("" if is_as_stored else f" (`{entry['state']}`)"),
            "Doubt": "yes" if entry["in_doubt"] else "no",
            "Event": f"`{young['event']['status']}`",
            "Resolution": f"`{(young['resolution'] or {}).get('status')}`",
            "Held": self.held(young),
            "Alert": ", then ".join(word or "none" for word in dict.fromkeys(words)),
            "Log": ", ".join(self._logged()),
        }

    def held(self, found: Json) -> str:
        """What is still held at the case's target."""
        (at,) = [one for one in found["residuals"] if one["target_service"] == self.case.target]
        stays = at["not_undone"] and f"`{at['not_undone']}` stays"
        parts = [at["residual_minor"], "uncertain" if at["uncertain"] else None, stays]
        return ", ".join(filter(None, parts))

    def state_of(self, found: Json) -> str:
        return str(self._entry(found)["state"])

    def _entry(self, found: Json) -> Json:
        is_apply = self.case.operation is Operation.APPLY
        outbox = found["outbox"] if is_apply else found["resolution"]["outbox"]
        (entry,) = [one for one in outbox if one["target_service"] == self.case.target]
        shown: Json = entry
        return shown

    def _logged(self) -> list[str]:
        about = delivery_id(FIRST, self.case.operation, self.case.target)
        return [
            f"`{line['event']}`"
            for line in self.logs
            if line.get("delivery_id") == about
            or (line["event"].startswith("loss_target_") and line["target"] == self.case.target)
        ]

    async def _post(self, path: str, key: str, body: Json) -> httpx.Response:
        headers = {**ADMIN, "idempotency-key": key}
        answered = await self.house.settle.post(path, json=body, headers=headers)
        lanes = self.house.parts.losses.fanout.lanes.values()
        await until(lambda: not any(lane.statistics()["under_way"] for lane in lanes))
        return answered


@asynccontextmanager
async def open_scene(database_url: str, case: Case) -> AsyncIterator[Scene]:
    """Open a house with all its targets, of which the case's one is behind a proxy."""
    parties = Parties(case)
    async with serving(Targets) as targets, faulty(targets.base_url, []) as proxy:
        targets.script.update({target: parties.answering(target) for target in Target})
        with capture_logs() as logs:
            async with open_house(database_url, _settings(case, targets, proxy)) as house:
                yield Scene(case, house, proxy, logs)


def _settings(case: Case, targets: Targets, proxy: FaultyServer) -> Settings:
    is_unknown = case.behaviour == "it is not configured"
    named = loss_settings(
        targets,
        without=[case.target] if is_unknown else (),
        attempt_timeout_s=0.7 if case.is_silent else 5.0,
        attempts_max=1 if case.is_last else 10,
    )
    urls = {target: f"{targets.base_url}/{target}" for target in Target}
    urls[case.target] = f"{proxy.base_url}/{case.target}"
    if case.behaviour == "no connection":
        urls[case.target] = NOBODY
    ledger = LedgerSettings(
        mode="http", base_url=urls.pop(Target.LEDGER), admin_keys=(Secret("ledger_house"),)
    )
    if not is_unknown:
        addresses: dict[str, Any] = {f"{target}_base_url": url for target, url in urls.items()}
        named = evolve(named, targets=evolve(named.targets, **addresses))
    return evolve(named, ledger=ledger)


def test_each_target_is_on_the_page() -> None:
    assert {row.values[0]["Target"] for row in rows("Telling it")} == set(Target)
    taken_back = {row.values[0]["Target"] for row in rows("Taking it back")}
    assert taken_back == set(Target) - {Target.CLAWINSURE}


@pytest.mark.parametrize("row", rows("Telling it"))
async def test_what_a_target_does_when_it_is_told_comes_to_what_the_page_says(
    row: Cells, database_url: str
) -> None:
    case = Case(Operation.APPLY, Target(row["Target"]), row["It answers"])
    second_answer = SecondAnswer()
    async with open_scene(database_url, case) as scene:
        if case.is_twice:
            scene.proxy.react(second_answer if case.is_late else answer_twice)
        await scene.record()
        cells = {**await scene.told()}
        if case.is_late:
            await second_answer.send()
        if case.is_twice:
            await scene.record(KEYS[1])
            assert scene.state_of(await scene.show(SECOND)) == "dead"
            assert scene.proxy.connection_count == 2
        cells["Resolve"] = str(await scene.resolve())
        cells["Held then"] = scene.held(await scene.show()) if cells["Resolve"] == "201" else "-"
    assert {name: cells[name] for name in row if name in cells} == _results(row)


@pytest.mark.parametrize("row", rows("Taking it back"))
async def test_what_a_target_does_when_it_is_to_let_go_comes_to_what_the_page_says(
    row: Cells, database_url: str
) -> None:
    case = Case(Operation.RESOLVE, Target(row["Target"]), row["It answers"])
    async with open_scene(database_url, case) as scene:
        for key in KEYS:
            await scene.record(key)
        if case.is_twice:
            scene.proxy.react(answer_twice)
        assert await scene.resolve() == 201
        cells = await scene.told()
        if case.is_twice:
            assert await scene.resolve(SECOND) == 201
            assert scene.state_of(await scene.show(SECOND)) == "dead"
            assert scene.proxy.connection_count == 2
    assert {name: cells[name] for name in row if name in cells} == _results(row)


def _results(row: Cells) -> Cells:
    return {name: row[name] for name in row if name not in {"Target", "It answers"}}
