"""Loss events for tests: targets on real sockets that answer as they are told, and requests."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, evolve, field

from clawsettle.actors.loss_fanout import LossFanout
from clawsettle.config import LossEventSettings, Secret, Settings, TargetAddress, TargetSettings
from clawsettle.domain.loss_events import Delivery, LossEvent, Operation, Target
from clawsettle.domain.loss_requests import LossRequest, ResolveRequest, parse_loss
from clawsettle.sandbox.http1 import Cut, Reply, Request, Unanswered, serving
from clawsettle.storage.bridge import Database
from clawsettle.storage.loss_rows import read_delivery, read_event
from tests.house import House, open_house, payin, settings

DID = "did:key:zA"
HTTP_TARGETS = (Target.ESCROW, Target.CLAWINSURE, Target.CLAWINCOME, Target.CLAWBOUNTIES)
HANG, CUT = "hang", "cut"
Script = Reply | str | trio.Event | Callable[[Request], Reply]


def answer(status: int, body: object, **headers: str) -> Reply:
    """An answer in JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(body).encode(), {"content-type": "application/json", **named})


@define(eq=False)
class Targets:
    """The four targets behind HTTP on one socket; each keeps what it was asked.

    A call is answered by ``script[target]``: the first of a list is used up, a single one stays. An
    unscripted call succeeds as the contract says, and so does one with an event once that is set.
    """

    base_url: str
    script: dict[Target, list[Script] | Script] = field(factory=dict)
    asked: list[tuple[Target, Request]] = field(factory=list)
    began: trio.Event = field(factory=trio.Event)

    def keys(self, target: Target) -> list[str]:
        """The idempotency keys that a target was asked with, in order."""
        return [request.headers["idempotency-key"] for at, request in self.asked if at is target]

    def bodies(self, target: Target) -> list[dict[str, Any]]:
        """The bodies that a target was sent, in order."""
        return [json.loads(request.body) for at, request in self.asked if at is target]

    async def answer(self, request: Request) -> Reply:
        """Answer a request, or do not."""
        name, _, path = request.path.removeprefix("/").partition("/")
        target = Target(name)
        self.asked.append((target, evolve(request, path=f"/{path}")))
        self.began.set()
        scripted = self.script.get(target)
        if isinstance(scripted, list):
            scripted = scripted.pop(0) if scripted else None
        if scripted == HANG:
            raise Unanswered
        if scripted == CUT:
            raise Cut
        if isinstance(scripted, trio.Event):
            await scripted.wait()
            scripted = None
        if scripted is None:
            return done(target, request)
        assert not isinstance(scripted, str)
        return scripted if isinstance(scripted, Reply) else scripted(request)


def done(target: Target, request: Request) -> Reply:
    """A success as the contract has it."""
    body = json.loads(request.body)
    if target is Target.ESCROW:
        return answer(200, {"escrow_id": "esc_1", "risk_hold": {"action": body["action"]}})
    if target is Target.CLAWINSURE:
        return answer(201, {"claim": {"id": "clm_1"}, "replay": False, "auto": True})
    if target is Target.CLAWINCOME:
        return answer(201, {"ok": True, "adjustment": {"id": "adj_1"}, "replay": False})
    return answer(201, {"ok": True})


def loss_settings(
    targets: Targets | None = None, *, without: Sequence[Target] = (), **more: Any
) -> Settings:
    """Settings of a daemon that tells these targets, and takes its time only when it is told to."""
    named: dict[str, Any] = {}
    for target in HTTP_TARGETS if targets else ():
        if target not in without:
            assert targets is not None
            named[f"{target}_base_url"] = f"{targets.base_url}/{target}"
            named[f"{target}_keys"] = (Secret(f"{target}_key"),)
    losses = {"poll_s": 3600.0, "attempt_timeout_s": 5.0, **more}
    return evolve(
        settings(), targets=TargetSettings(**named), loss_events=LossEventSettings(**losses)
    )


@asynccontextmanager
async def open_fanout(
    database_url: str, **options: Any
) -> AsyncIterator[tuple[House, LossFanout, Targets]]:
    """A daemon, what tells targets in it, and the targets."""
    async with (
        serving(Targets) as targets,
        open_house(database_url, loss_settings(targets, **options)) as house,
    ):
        yield house, house.parts.losses.fanout, targets


def told_by(addresses: Mapping[Target, TargetAddress]) -> dict[str, str]:
    """The environment of a daemon process that tells these targets."""
    environ = {}
    for target, address in addresses.items():
        prefix = f"CLAWSETTLE_TARGETS__{target}".upper()
        environ[f"{prefix}_BASE_URL"] = address.base_url
        environ[f"{prefix}_KEYS"] = address.key.reveal()
    return environ


async def fund(house: House, amount_minor: int = 100_000, did: str = DID) -> str:
    """Give an account money, and return its id."""
    account = await house.ledger.post("/accounts", json={"did": did})
    account_id: str = (
        account.json().get("id") or (await house.ledger.get(f"/accounts/{did}")).json()["id"]
    )
    rows = await house.database.fetch("SELECT count(*) AS place FROM ledger_event")
    event = payin(f"evt_fund_{rows[0]['place']}", account_id, amount_minor=amount_minor)
    assert (await house.deliver(event)).json()["forwarded_to_ledger"]
    return account_id


async def balances(house: House, did: str = DID) -> tuple[int, int]:
    """What an account has available and held."""
    found = (await house.ledger.get(f"/accounts/{did}")).json()["balances"]
    return int(found["available"]), int(found["held"])


def loss_body(key: str = "k1", **more: Any) -> dict[str, Any]:
    """What is posted to record a loss event; every key has a source event of its own."""
    return {
        "source_service": "stripe",
        "source_event_id": f"evt_{key}",
        "account_did": DID,
        "amount_minor": "250",
        "currency": "USD",
        "reason_code": "chargeback",
        **more,
    }


def loss(key: str = "k1", **more: Any) -> LossRequest:
    """An order to record a loss event."""
    return parse_loss(key, loss_body(key, **more))


def resolve(event: LossEvent, key: str = "rk1", reason: str | None = None) -> ResolveRequest:
    """An order to resolve an event."""
    return ResolveRequest(event.loss_event_id, key, reason)


async def event_of(database: Database, event: LossEvent) -> LossEvent:
    """An event as it stands."""
    rows = await database.fetch(
        "SELECT * FROM loss_event WHERE loss_event_id = $1", event.loss_event_id
    )
    return read_event(rows[0])


async def deliveries(
    database: Database, event: LossEvent, operation: Operation = Operation.APPLY
) -> dict[Target, Delivery]:
    """An event's deliveries by their targets."""
    rows = await database.fetch(
        "SELECT * FROM loss_delivery WHERE loss_event_id = $1 AND operation = $2",
        event.loss_event_id,
        str(operation),
    )
    return {one.target: one for one in map(read_delivery, rows)}


async def settled(
    database: Database, event: LossEvent, operation: Operation = Operation.APPLY
) -> dict[Target, Delivery]:
    """Wait until nobody works on an event's deliveries; return them as they are then."""
    with trio.fail_after(10):
        while True:
            found = await deliveries(database, event, operation)
            if all(one.lease_token is None for one in found.values()):
                return found
            await trio.sleep(0.005)


async def until_status(database: Database, event: LossEvent, status: str) -> None:
    """Wait until an event has a status."""
    with trio.fail_after(10):
        while True:
            if (await event_of(database, event)).status == status:
                return
            await trio.sleep(0.005)


async def until_all_ended(database: Database) -> None:
    """Wait until no delivery is to be made any more."""
    with trio.fail_after(10):
        while True:
            if not await database.fetch("SELECT 1 FROM loss_delivery WHERE due_at IS NOT NULL"):
                return
            await trio.sleep(0.005)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    with trio.fail_after(10):
        while True:
            if condition():
                return
            await trio.sleep(0.005)
