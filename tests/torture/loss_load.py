"""A load on loss events: recorded, asked for again, hurried and resolved, while targets misbehave.

Two events at a time name one escrow, mostly of two clients. The targets are the sandbox's, which
keep state; what goes wrong with calls of theirs does so for a few in a row. Some escrows are
settled and some bounties absent until the load is over: those calls are refused for good.
"""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import trio
from attrs import define, field

from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.risk_faults import (
    CUT,
    CUT_AFTER_ACTING,
    LYING,
    PAGE,
    SILENT,
    SILENT_AFTER_ACTING,
    Fault,
    refused,
    slow,
    throttled,
)
from clawsettle.sandbox.risk_targets import RiskSandbox
from tests.house import Json, payin
from tests.torture.load import DONE, Client, InsistentLoad

EVENTS = "/v1/loss-events"
FUNDS_MINOR = 10**12
AMOUNT_MAX_MINOR = 5000
LATE_BY_S = 0.3
FAULTS: Sequence[Fault] = (
    CUT,
    CUT_AFTER_ACTING,
    LYING,
    PAGE,
    SILENT,
    SILENT_AFTER_ACTING,
    refused(500),
    refused(503, acts=True),
    slow(LATE_BY_S),
    throttled(),
    throttled(1),
)
"""What goes wrong and mends itself: nothing that a target would not do, and nothing done late."""

_FAULT_EVERY_S = 0.4
_FAULTY_CALLS_MAX = 8
_REQUEUED_MAX = 1000
_SAID = frozenset({200, 201, 409})


@define(eq=False, kw_only=True)
class LossLoad(InsistentLoad):
    """Records loss events of ``account_ids`` (by DID) and resolves some; see the module.

    ``orders`` are the bodies by their keys,
    ``told`` the event ids that were answered to each, ``resolved`` the events that were said to be
    resolved. ``acknowledged`` has the keys and the events that were. ``calls`` counts what the
    targets were asked by key, and ``unlike`` names the keys under which they were asked otherwise
    than before.
    """

    account_ids: Mapping[str, str]
    seed: str
    targets: RiskSandbox
    orders: dict[str, Json] = field(factory=dict, init=False)
    told: dict[str, list[str]] = field(factory=lambda: defaultdict(list), init=False)
    resolved: set[str] = field(factory=set, init=False)
    calls: Counter[str] = field(factory=Counter, init=False)
    unlike: set[str] = field(factory=set, init=False)
    _requests: dict[str, bytes] = field(factory=dict, init=False)
    _settled: list[str] = field(factory=list, init=False)
    _absent: list[str] = field(factory=list, init=False)
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)

    @property
    def sent_count(self) -> int:
        return len(self.orders)

    @property
    def uninsured(self) -> str:
        """Return the DID of the one account without a policy."""
        return next(iter(self.account_ids))

    async def run(self) -> None:
        """Fund and insure the accounts, then record and resolve until stopped."""
        client = Client(self.patience_s)
        try:
            for account_id in self.account_ids.values():
                funds = payin(f"evt_{account_id}", account_id, amount_minor=FUNDS_MINOR)
                await self.deliver(client, 0, funds)
        finally:
            client.close()
        insured = [did for did in self.account_ids if did != self.uninsured]
        self.targets.clawinsure.seed({did: {"coverage_minor": FUNDS_MINOR} for did in insured})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            nursery.start_soon(self._misbehave)

    async def bring_back(self) -> None:
        """Mend what had calls refused for good, and have those made again."""
        self.targets.escrow.seed(dict.fromkeys(self._settled, "held"))
        self.targets.clawbounties.seed(dict.fromkeys(self._absent, "open"))
        self._settled.clear()
        self._absent.clear()
        client, turn = Client(self.patience_s), next(self._numbers)
        try:
            for target in Target:
                body = {"target_service": target, "limit": _REQUEUED_MAX, "why": "torture"}
                await self.ask(client, turn, f"{EVENTS}/outbox/requeue", "none", body)
        finally:
            client.close()

    def look(self) -> None:
        """Take note of what the targets were asked since the last look."""
        for desk in self.targets.desks.values():
            while desk.calls:
                call = desk.calls.popleft()
                key = str(call.key)
                digest = hashlib.sha256(call.path.encode() + b"\n" + call.body).digest()
                self.calls[key] += 1
                if self._requests.setdefault(key, digest) != digest:
                    self.unlike.add(key)

    async def _work(self, worker: int, client: Client) -> None:
        rng = Random(f"{self.seed}:{worker}")
        for number in itertools.count():
            if self._stopped.is_set():
                return
            match rng.choices(("new", "again", "resolve", "hurry"), (12, 1, 8, 1))[0]:
                case "new":
                    key = f"{worker}-{number}"
                    self.orders[key] = self._order(key, rng)
                    await self._record(client, worker, key)
                case "again" if self.orders:
                    await self._record(client, worker, rng.choice([*self.orders]))
                case "resolve" if open_ids := self._unresolved():
                    await self._resolve(client, worker, rng.choice(open_ids))
                case "hurry" if open_ids := self._unresolved():
                    await self._hurry(client, worker, rng.choice(open_ids))

    def _order(self, key: str, rng: Random) -> Json:
        number = next(self._numbers)
        escrow_id, bounty_id = f"esc_{number // 2:x}", f"bty_{number}"
        if number % 20 == 0:
            self.targets.escrow.seed({escrow_id: "settled"})
            self._settled.append(escrow_id)
        if number % 10 == 5:
            self.targets.clawbounties.seed({bounty_id: "absent"})
            self._absent.append(bounty_id)
        body: Json = {
            "source_service": "torture",
            "source_event_id": f"dp_{self.seed}:{key}",
            "account_did": rng.choice([*self.account_ids]),
            "amount_minor": str(rng.randint(1, AMOUNT_MAX_MINOR)),
            "currency": "USD",
            "reason_code": "chargeback",
            "metadata": {"escrow_id": escrow_id, "bounty_id": bounty_id},
        }
        if rng.random() < 0.2:
            body["targets"] = rng.sample([str(target) for target in Target], rng.randint(1, 4))
        return body

    async def _record(self, client: Client, turn: int, key: str) -> None:
        answer = await self.ask(client, turn, EVENTS, key, self.orders[key])
        if answer is not None:
            self.told[key].append(json.loads(answer.body)["event"]["loss_event_id"])
            self._acknowledge(key)

    async def _resolve(self, client: Client, turn: int, event_id: str) -> None:
        path = f"{EVENTS}/{event_id}/resolve"
        answer = await self.ask(client, turn, path, f"resolve:{event_id}", {}, _SAID)
        if answer is not None and answer.outcome in DONE:
            self.resolved.add(event_id)
            self._acknowledge(event_id)

    async def _hurry(self, client: Client, turn: int, event_id: str) -> None:
        """Have what was refused for now attempted at once."""
        body = {"loss_event_id": event_id, "force": True}
        await self.ask(client, turn, f"{EVENTS}/ops/retry", "none", body)

    def _unresolved(self) -> list[str]:
        """Return the newest events that are not known to be resolved."""
        newest = itertools.islice(reversed(self.told.values()), 200)
        return [ids[0] for ids in newest if ids and ids[0] not in self.resolved]

    async def _misbehave(self) -> None:
        """Have calls go wrong, of one target after another, until stopped."""
        rng, desks = Random(f"{self.seed}:faults"), [*self.targets.desks.values()]
        while not self._stopped.is_set():
            calls = rng.randint(1, _FAULTY_CALLS_MAX)
            rng.choice(desks).script.add(rng.choice(FAULTS), calls=calls)
            self.look()
            with trio.move_on_after(rng.uniform(0, _FAULT_EVERY_S)):
                await self._stopped.wait()
        for desk in desks:
            desk.script.clear()
