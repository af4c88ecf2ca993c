"""Netting over HTTP for tests: asking for runs, reading them, and a ledger that can be held up."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import trio
from attrs import define, field

from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.clients.ledger import Ledger
from clawsettle.config import Settings
from clawsettle.domain.forwarding import Unknown
from clawsettle.domain.ledger_orders import Applied, TransferOrder, TransferOutcome
from tests.house import ADMIN, House, Json, open_house, settings

RUNS = "/v1/netting/runs"
ALONE = settings(netting={"poll_s": 3600})
HASTY = settings(netting={"poll_s": 3600, "answer_deadline_s": 0.3})
UNKNOWN_ID = "nrun_nobody"
ANSWERED_S = 30
"""By when every request of these tests is answered, even where runs are held up."""


async def ask(
    house: House,
    body: object = None,
    key: str | None = "key_1",
    headers: Mapping[str, str] = ADMIN,
) -> httpx.Response:
    """Ask for a run."""
    keyed = {} if key is None else {"idempotency-key": key}
    with trio.fail_after(ANSWERED_S):
        return await house.settle.post(RUNS, json=body, headers={**headers, **keyed})


async def made(house: House, key: str = "key_1", **body: object) -> Json:
    """Ask for a run that is to be a new one, and return the whole answer."""
    answer = await ask(house, body, key)
    assert answer.status_code == 201, answer.text
    told: Json = answer.json()
    return told


async def get(house: House, path: str = "", **query: str) -> httpx.Response:
    """Read below the runs' path."""
    return await house.settle.get(f"{RUNS}{path}", params=query, headers=ADMIN)


async def act(house: House, run_id: str, action: str, body: object = None) -> httpx.Response:
    """Do something about a run, as an operator does."""
    with trio.fail_after(ANSWERED_S):
        return await house.settle.post(f"{RUNS}/{run_id}/{action}", json=body, headers=ADMIN)


async def ended(house: House, run_id: str) -> Json:
    """Wait for the end of a run, and return what is told of it."""
    with trio.fail_after(10):
        while "completed_at" not in (told := (await get(house, f"/{run_id}")).json())["run"]:  # noqa: ASYNC110 - rows tell nobody
            await trio.sleep(0.02)
    found: Json = told
    return found


def refusal(answer: httpx.Response) -> tuple[int, str, object]:
    """Return what an error answer says."""
    body = answer.json()
    return answer.status_code, body["code"], body.get("details")


def bad(field_name: str) -> tuple[int, str, object]:
    """Return the refusal of one field."""
    return 400, "INVALID_REQUEST", {"field": field_name}


@define(eq=False)
class Gate:
    """A ledger whose transfers wait at a gate; one that is ``deaf`` never lets them through."""

    ledger: Ledger
    deaf: bool = False
    reached: trio.Event = field(factory=trio.Event)
    opened: trio.Event = field(factory=trio.Event)
    repeats_safely: bool = True

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        self.reached.set()
        if self.deaf:
            return Unknown("no answer")
        await self.opened.wait()
        return await self.ledger.transfer(order)

    async def transferred(self, order: TransferOrder) -> Applied | None:
        return await self.ledger.transferred(order)


@asynccontextmanager
async def gated(
    database_url: str, configured: Settings = HASTY, *, deaf: bool = False
) -> AsyncIterator[tuple[House, Gate]]:
    """A house whose netting finds such a ledger; the gate is opened at the end."""
    async with open_house(database_url, configured) as house:
        runner = house.parts.netting.runner
        gate = Gate(runner.steps.ledger, deaf)
        runner.steps = NettingSteps(gate, 30.0)  # type: ignore[arg-type]
        yield house, gate
        gate.opened.set()
