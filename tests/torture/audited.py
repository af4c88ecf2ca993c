"""Books that a load has filled, and whether their audit names what is changed in them."""

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Generic

import trio
from attrs import define

from clawsettle.sandbox.risk_targets import open_risk_sandbox
from clawsettle.storage.bridge import Database, Transaction, open_database
from tests.torture.round import open_accounts
from tests.torture.site import Daemon, open_site
from tests.torture.traffic import AnyLoad, Plan, Traffic


@define(eq=False)
class Audited(Generic[AnyLoad]):
    """A load at its end, with the database that it has filled; ``problems`` were found last."""

    traffic: Traffic[AnyLoad]
    database: Database
    daemons: Sequence[Daemon]
    load: AnyLoad
    problems: Sequence[str] = ()

    async def audit(self) -> Sequence[str]:
        """Audit the books, and return what does not hold."""
        audit = await self.traffic.audit(self.database, self.daemons, self.load, None)
        self.problems = audit.problems
        return self.problems

    async def names_change(self, sql: str, arguments: Sequence[str], fault: str) -> None:
        """Change a table as somebody could who may do everything; the audit has to name it."""

        async def work(transaction: Transaction) -> None:
            await transaction.script("SET LOCAL session_replication_role = replica")
            await transaction.fetch(sql, *arguments)

        assert not self._names(fault), fault
        await self.database.transaction(work)
        await self.audit()
        assert self._names(fault), fault

    async def names_telling(self, tell: Callable[[AnyLoad], object], fault: str) -> None:
        """Have something seen by clients or targets; the audit has to name it."""
        assert not self._names(fault), fault
        tell(self.load)
        await self.audit()
        assert self._names(fault), fault

    def _names(self, fault: str) -> bool:
        return any(problem.startswith(fault) for problem in self.problems)


@asynccontextmanager
async def open_audited(
    traffic: Traffic[AnyLoad], *, clients: int, count: int, within_s: float = 60.0
) -> AsyncIterator[Audited[AnyLoad]]:
    """Have two daemons acknowledge ``count`` of what the clients send; the audit finds nothing."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        async with open_site(Path(folder)) as site:
            url = site.server.dsn_of(await site.create_database())
            async with (
                open_risk_sandbox() as targets,
                site.daemons(("a", "b"), url, "attempted", targets.addresses) as daemons,
            ):
                accounts = await open_accounts(daemons[0])
                load = traffic.load(Plan(daemons, targets, accounts, clients, "attempted", "audit"))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(load.run)
                    await load.acknowledges(count, within_s=within_s)
                    load.stop()
                async with open_database(url) as database:
                    audited = Audited(traffic, database, daemons, load)
                    assert await audited.audit() == []
                    yield audited
