"""A load on netting: payouts that are paid, some that fail late, and runs of all that waits.

Each client orders payouts, tells that they were paid, later tells of some that they have failed,
asks for runs, several clients under one key, and releases or resumes runs of others. What nobody
answered is asked again, under the same key, of the next daemon.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from random import Random

import trio
from attrs import define, field

from clawsettle.domain.netting_requests import LIMIT_MAX
from tests.house import Json, payin
from tests.netting import request
from tests.payouts import payout_event
from tests.torture.load import ANSWERED_MAX_S, PAUSE_S, Client, InsistentLoad

RUNS = "/v1/netting/runs"
TARGETS = ("clawsettle.netting", "torture.netting")
FUNDS_MINOR = 10**12
AMOUNT_MAX_MINOR = 5000
_RUNS_AT_ONCE = 3
_SAID, _KEPT = frozenset({200, 201, 404, 409}), frozenset({200, 502})


@define(eq=False, kw_only=True)
class NettingLoad(InsistentLoad):
    """Makes payouts of ``account_ids`` (by DID) and has them netted; see the module.

    ``acknowledged`` has the payouts that were said to be paid and the runs that were said to be
    applied. ``paid`` has those payouts as they were shown, ``late`` the ids of those that have
    failed, ``told`` every answer that told of an applied run, by its key, ``open_orders`` what was
    asked for under the other keys.
    """

    account_ids: Mapping[str, str]
    seed: str
    paid: dict[str, Json] = field(factory=dict, init=False)
    late: set[str] = field(factory=set, init=False)
    told: dict[str, list[Json]] = field(factory=lambda: defaultdict(list), init=False)
    open_orders: dict[str, Json] = field(factory=dict, init=False)
    _run_numbers: Iterator[int] = field(factory=itertools.count, init=False)

    @property
    def sent_count(self) -> int:
        return len(self.paid) + len(self.told)

    async def run(self) -> None:
        """Fund the accounts, then make payouts and runs until stopped."""
        client = Client(self.patience_s)
        try:
            for account_id in self.account_ids.values():
                await self.deliver(
                    client, 0, payin(f"evt_{account_id}", account_id, amount_minor=FUNDS_MINOR)
                )
                body = {"account_id": account_id}
                await self.ask(client, 0, "/v1/payouts/connect/onboard", account_id, body)
        finally:
            client.close()
        await super().run()

    async def net_the_rest(self) -> bool:
        """End the runs that have not ended, and net what still waits; return whether anything did.

        What cannot be moved is released: then its payouts are netted here, or the next time.
        """
        client, turn = Client(self.patience_s), next(self._run_numbers)
        try:
            for key, order in [*self.open_orders.items()]:
                await self.net(client, turn, key, order)
            left = [*self.open_orders]
            for key in left:
                await self.ask(client, turn, _path(key, "release"), "none", {}, _SAID)
            last = {f"last:{turn}:{target}": target for target in TARGETS}
            for key, target in last.items():
                order = {"limit": LIMIT_MAX, "target_clearing_domain": target}
                await self.net(client, turn, key, order)
        finally:
            client.close()
        netted = [told["run"]["candidate_count"] for key in last for told in self.told[key]]
        return bool(left or self.open_orders or any(netted))

    async def pay(self, client: Client, turn: int, name: str, rng: Random) -> None:
        """Have a payout be made, and be paid."""
        body: Json = {
            "account_id": rng.choice([*self.account_ids.values()]),
            "amount_minor": str(rng.randint(1, AMOUNT_MAX_MINOR)),
            "currency": "USD",
        }
        with trio.move_on_after(ANSWERED_MAX_S):
            while True:
                answer = await self.ask(client, turn, "/v1/payouts", f"payout:{name}", body)
                view = {} if answer is None else json.loads(answer.body)["payout"]
                if "external_payout_id" in view:
                    break
                await trio.sleep(PAUSE_S)
            told = payout_event("payout.paid", f"evt_paid_{name}", view)
            if await self.deliver(client, turn, told) is not None:
                self.paid[view["id"]] = view
                self._acknowledge(view["id"])

    async def fail_late(self, client: Client, turn: int, rng: Random) -> None:
        """Have a payout that was paid fail; whether it was netted yet is left to chance."""
        sound = [payout_id for payout_id in self.paid if payout_id not in self.late]
        if sound:
            payout_id = rng.choice(sound)
            self.late.add(payout_id)
            event_id = f"evt_failed_{payout_id}"
            told = payout_event("payout.failed", event_id, self.paid[payout_id])
            await self.deliver(client, turn, told, _KEPT)

    async def net(self, client: Client, turn: int, key: str, order: Json) -> None:
        """Ask for a run, and note whether it has ended."""
        self.open_orders[key] = order
        answer = await self.ask(client, turn, RUNS, key, order, _SAID)
        told = {} if answer is None else json.loads(answer.body)
        if told.get("complete"):
            self.told[key].append(told)
            self._acknowledge(key)
        if told.get("complete") or told.get("code") == "INVALID_STATUS_TRANSITION":
            self.open_orders.pop(key, None)

    async def intervene(self, client: Client, turn: int, rng: Random) -> None:
        """Resume or release a run that is not known to have ended."""
        if self.open_orders:
            path = _path(rng.choice([*self.open_orders]), rng.choice(("resume", "release")))
            await self.ask(client, turn, path, "none", {}, _SAID)

    async def _work(self, worker: int, client: Client) -> None:
        rng = Random(f"{self.seed}:{worker}")
        for number in itertools.count():
            if self._stopped.is_set():
                return
            match rng.choices(("pay", "fail", "net", "intervene"), (12, 3, 2, 1))[0]:
                case "pay":
                    await self.pay(client, worker, f"{worker}-{number}", rng)
                case "fail":
                    await self.fail_late(client, worker, rng)
                case "net":
                    key = f"run:{next(self._run_numbers) // _RUNS_AT_ONCE}"
                    await self.net(client, worker, key, self._order(key))
                case "intervene":
                    await self.intervene(client, worker, rng)

    def _order(self, key: str) -> Json:
        """Return what is asked for under a key, whoever asks."""
        rng = Random(f"{self.seed}:{key}")
        (target,) = rng.choices(TARGETS, (3, 1))
        return {"limit": rng.randint(1, 200), "target_clearing_domain": target}


def _path(key: str, action: str) -> str:
    """Return where an operator acts on the run of a key."""
    return f"{RUNS}/{request(key).run_id}/{action}"
