"""Loss events over HTTP for tests: a house with targets, and what is asked of it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio

from clawsettle.config import Settings
from clawsettle.sandbox.http1 import serving
from tests.house import ADMIN, House, Json, open_house
from tests.losses import Targets, fund, loss_body, loss_settings

EVENTS = "/v1/loss-events"
OUTBOX = f"{EVENTS}/outbox"
RETRY = f"{EVENTS}/ops/retry"
REQUEUE = f"{OUTBOX}/requeue"
UNKNOWN_ID = "lse_nobody"
BODY: Mapping[str, Any] = loss_body("1")


@asynccontextmanager
async def open_site(
    database_url: str, configured: Settings | None = None, **options: Any
) -> AsyncIterator[tuple[House, Targets]]:
    """A house that tells real targets; the account of the usual event has money."""
    async with (
        serving(Targets) as targets,
        open_house(database_url, configured or loss_settings(targets, **options)) as house,
    ):
        await fund(house)
        yield house, targets


async def ask(
    house: House,
    body: object = BODY,
    key: str | None = "k1",
    *,
    path: str = EVENTS,
    headers: Mapping[str, str] = ADMIN,
) -> httpx.Response:
    """Ask for an event, or below the events' path for something else."""
    keyed = {} if key is None else {"idempotency-key": key}
    return await house.settle.post(path, json=body, headers={**headers, **keyed})


async def recorded(house: House, key: str = "k1", **body: Any) -> str:
    """Record a new event, with a source event of its own, and return its id."""
    answer = await ask(house, {**BODY, "source_event_id": f"evt_{key}", **body}, key)
    assert answer.status_code == 201, answer.text
    event_id: str = answer.json()["event"]["loss_event_id"]
    return event_id


async def resolve(
    house: House, event_id: str, body: object = None, key: str | None = "rk1"
) -> httpx.Response:
    """Ask for an event to be resolved."""
    content = {} if body is None else body
    return await ask(house, content, key, path=f"{EVENTS}/{event_id}/resolve")


async def get(house: House, path: str = EVENTS, **query: str) -> httpx.Response:
    """Read as an admin."""
    return await house.settle.get(path, params=query, headers=ADMIN)


async def found(house: House, event_id: str) -> Json:
    """What is told of one event."""
    answer = await get(house, f"{EVENTS}/{event_id}")
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def quiet(house: House, event_id: str) -> Json:
    """Wait until nobody works on an event's deliveries, and return what is told of it."""
    with trio.fail_after(10):
        while await house.database.fetch(  # noqa: ASYNC110 - rows tell nobody
            "SELECT 1 FROM loss_delivery WHERE loss_event_id = $1 AND lease_token IS NOT NULL",
            event_id,
        ):
            await trio.sleep(0.01)
    return await found(house, event_id)


def entry(told: Json, target: str) -> Json:
    """The outbox entry of one target."""
    (one,) = [one for one in told["outbox"] if one["target_service"] == target]
    entry: Json = one
    return entry


def refusal(answer: httpx.Response) -> tuple[int, str, object]:
    """Return what an error answer says."""
    body = answer.json()
    return answer.status_code, body["code"], body.get("details")


def bad(field_name: str, **more: object) -> tuple[int, str, object]:
    """Return the refusal of one field."""
    return 400, "INVALID_REQUEST", {"field": field_name, **more}


REFUSED = (401, "UNAUTHORIZED", None)
NO_DETAILS = (400, "INVALID_REQUEST", None)
