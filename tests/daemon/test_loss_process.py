"""Processes that are killed or stopped while they tell targets, and those that come after them."""

import signal
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx
import trio
from attrs import define, field

from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.risk_faults import ORDINARY, SILENT, SILENT_AFTER_ACTING, slow
from clawsettle.sandbox.risk_targets import RiskSandbox, open_risk_sandbox
from clawsettle.storage.bridge import Database, open_database
from tests.daemon.process import DaemonProcess, daemon_process
from tests.losses import told_by
from tests.torture.loss_audit import loss_problems
from tests.torture.loss_load import LossLoad

ROUNDS = 20
CLIENTS, ACCOUNTS = 12, 4
ATTEMPT_TIMEOUT_S, LEASE_S, DRAIN_S = 0.7, 1.5, 2.0
ADMIN_KEY = "settle_losses"
QUICK = {
    "SETTLE_ADMIN_KEY": ADMIN_KEY,
    "CLAWSETTLE_LOSS_EVENTS__ATTEMPT_TIMEOUT_S": str(ATTEMPT_TIMEOUT_S),
    "CLAWSETTLE_LOSS_EVENTS__LEASE_S": str(LEASE_S),
    "CLAWSETTLE_LOSS_EVENTS__POLL_S": "0.1",
    "CLAWSETTLE_LOSS_EVENTS__RETRY_BASE_S": "1",
    "CLAWSETTLE_LOSS_EVENTS__RETRY_MAX_S": "1",
    "CLAWSETTLE_LOSS_EVENTS__BREAKER_OPEN_S": "0.2",
}
ENDLESS = {Target.CLAWINSURE: SILENT, Target.ESCROW: slow(0.3)}
_LEASED = "SELECT delivery_id, target FROM loss_delivery WHERE lease_token IS NOT NULL"


@define(eq=False)
class Scene:
    """A database, the targets, and the load that goes on whichever daemon runs."""

    path: Path
    database_url: str
    database: Database
    client: httpx.AsyncClient
    targets: RiskSandbox
    nursery: trio.Nursery
    loaded: trio.Event = field(factory=trio.Event, init=False)

    def starting(
        self, name: str = "one", **environ: str
    ) -> AbstractAsyncContextManager[DaemonProcess]:
        """Start a daemon that tells the targets."""
        return daemon_process(
            self.path / name,
            "--database-url",
            self.database_url,
            environ={**QUICK, **told_by(self.targets.addresses), **environ},
        )

    async def load(self, daemon: DaemonProcess, seed: str) -> LossLoad:
        """Begin to record and resolve loss events at a daemon."""
        account_ids = {}
        for number in range(ACCOUNTS):
            body = {"did": f"did:key:{seed}-{number}"}
            account = await daemon.ledger(self.client, "POST", "/accounts", json=body)
            account_ids[body["did"]] = account["id"]
        load = LossLoad(
            addresses=[address_of(daemon)],
            concurrency=CLIENTS,
            patience_s=5.0,
            key=ADMIN_KEY,
            secret=daemon.facts["webhook_secret"],
            account_ids=account_ids,
            seed=seed,
            targets=self.targets,
        )
        self.nursery.start_soon(self._run, load)
        return load

    async def finish(self, load: LossLoad) -> list[str]:
        """End the load; tell what does not hold once everything is delivered."""
        load.stop()
        with trio.fail_after(30):
            await self.loaded.wait()
        return await loss_problems(self.database, load)

    async def leased(self) -> dict[str, Target]:
        """Return the deliveries that some daemon has, or had when it died."""
        rows = await self.database.fetch(_LEASED)
        return {row["delivery_id"]: Target(row["target"]) for row in rows}

    async def until_leased(self, targets: Collection[Target]) -> None:
        """Wait until deliveries to all these targets are under way."""
        with trio.fail_after(10):
            while not {*targets} <= {*(await self.leased()).values()}:  # noqa: ASYNC110 - polling
                await trio.sleep(0.002)

    async def _run(self, load: LossLoad) -> None:
        await load.run()
        self.loaded.set()


@asynccontextmanager
async def open_scene(path: Path, database_url: str) -> AsyncIterator[Scene]:
    async with (
        open_database(database_url) as database,
        httpx.AsyncClient(timeout=30) as client,
        open_risk_sandbox() as targets,
        trio.open_nursery() as nursery,
    ):
        yield Scene(path, database_url, database, client, targets, nursery)
        nursery.cancel_scope.cancel()


def address_of(daemon: DaemonProcess) -> tuple[str, int]:
    url = urlsplit(daemon.facts["base_url"])
    return str(url.hostname), int(url.port or 0)


async def test_twenty_kills_lose_no_loss_event_and_each_repeat_has_its_key(
    tmp_path: Path, database_url: str
) -> None:
    rng, in_flight_count = Random(7), 0
    async with open_scene(tmp_path, database_url) as scene:
        async with scene.starting() as daemon:
            load = await scene.load(daemon, "kills")
            await load.acknowledges(20)
            daemon.signal(signal.SIGKILL)
            await daemon.ended(5)
        for _ in range(ROUNDS - 1):
            async with scene.starting() as daemon:
                load.addresses = [address_of(daemon)]
                await load.acknowledges(rng.randint(1, 60))
                await trio.sleep(rng.uniform(0, 0.1))
                daemon.signal(signal.SIGKILL)
                await daemon.ended(5)
            in_flight_count += bool(await scene.leased())
        async with scene.starting() as daemon:
            load.addresses = [address_of(daemon)]
            assert await scene.finish(load) == []
    assert len(load.told) >= 10 * ROUNDS
    assert in_flight_count >= ROUNDS // 2
    assert sum(count > 1 for count in load.calls.values()) >= ROUNDS


async def test_of_two_daemons_the_other_tells_what_the_one_that_was_killed_had_begun(
    tmp_path: Path, database_url: str
) -> None:
    async with (
        open_scene(tmp_path, database_url) as scene,
        scene.starting("a") as killed,
        scene.starting("b") as other,
    ):
        load = await scene.load(killed, "two")
        await load.acknowledges(100)
        scene.targets.desks[Target.CLAWINCOME].script.clear()
        scene.targets.desks[Target.CLAWINCOME].script.add(SILENT_AFTER_ACTING, calls=3)
        await scene.until_leased([Target.CLAWINCOME])
        killed.signal(signal.SIGKILL)
        await killed.ended(5)
        begun = await scene.leased()
        assert begun
        load.addresses = [address_of(other)]
        assert await scene.finish(load) == []
        told = [line.get("delivery_id") for line in other.lines()]
        assert begun.keys() <= {*told}


async def test_sigterm_stores_what_is_answered_in_time_and_waits_for_no_target_that_hangs(
    tmp_path: Path, database_url: str
) -> None:
    slowly = {
        "CLAWSETTLE_DAEMON__DRAIN_S": str(DRAIN_S),
        "CLAWSETTLE_LOSS_EVENTS__ATTEMPT_TIMEOUT_S": "2.9",
        "CLAWSETTLE_LOSS_EVENTS__LEASE_S": "6",
    }
    async with open_scene(tmp_path, database_url) as scene:
        async with scene.starting(**slowly) as daemon:
            load = await scene.load(daemon, "term")
            await load.acknowledges(50)
            for target, desk in scene.targets.desks.items():
                desk.script.clear()
                desk.script.add(ENDLESS.get(target, ORDINARY))
            await scene.until_leased(ENDLESS)
            daemon.signal(signal.SIGTERM)
            begun = trio.current_time()
            assert await daemon.ended(2 * DRAIN_S) == 0
            assert trio.current_time() - begun < DRAIN_S + 0.5
            assert {*(await scene.leased()).values()} == {Target.CLAWINSURE}
        for desk in scene.targets.desks.values():
            desk.script.clear()
        async with scene.starting() as daemon:
            load.addresses = [address_of(daemon)]
            assert await scene.finish(load) == []
