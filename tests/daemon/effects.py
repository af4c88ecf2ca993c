"""The effects of a daemon on what outlives it, so that it can die after any of them.

A commit is an effect when a statement in it changes something that a test is about.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio
from attrs import Factory, define, frozen

from clawsettle.storage.bridge import Database, Row, Transaction

T = TypeVar("T")
Writes = Mapping[str, str]
"""Statements that change something: text -> name."""


@define(eq=False)
class Death:
    """Ends a daemon's life after one of its effects; notes what they were."""

    life: trio.CancelScope
    after: int
    effects: list[str] = Factory(list)

    async def visit(self, effect: str) -> None:
        """Count an effect; the last one's outcome reaches nobody."""
        self.effects.append(effect)
        if len(self.effects) == self.after:
            self.life.cancel()
            await trio.sleep_forever()


@frozen(eq=False)
class _WatchedTransaction:
    transaction: Transaction
    writes: Writes
    written: list[str]

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        rows = await self.transaction.fetch(sql, *args)
        if sql in self.writes:
            self.written.append(self.writes[sql])
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transaction, name)


def watch(database: Database, writes: Writes, visit: Callable[[str], Awaitable[None]]) -> None:
    """Have ``visit`` called after each effect of the daemon with these connections."""
    fetch, transaction = database.fetch, database.transaction

    async def watched_fetch(sql: str, *args: object) -> Sequence[Row]:
        rows = await fetch(sql, *args)
        if sql in writes and rows:
            await visit(writes[sql])
        return rows

    async def watched_transaction(work: Callable[[Any], Awaitable[T]]) -> T:
        written: list[str] = []
        value = await transaction(lambda one: work(_WatchedTransaction(one, writes, written)))
        if written:
            await visit(" and ".join(written))
        return value

    vars(database).update(fetch=watched_fetch, transaction=watched_transaction)


def lose_answers(
    database: Database, writes: Writes, is_lost: Callable[[], bool] = lambda: True
) -> None:
    """Lose answers to commits, so that these are made again, as the bridge does then."""
    fetch, transaction = database.fetch, database.transaction

    async def fetch_twice(sql: str, *args: object) -> Sequence[Row]:
        rows = await fetch(sql, *args)
        return await fetch(sql, *args) if sql in writes and is_lost() else rows

    async def transact_twice(work: Callable[[Any], Awaitable[T]]) -> T:
        written: list[str] = []
        value = await transaction(lambda one: work(_WatchedTransaction(one, writes, written)))
        return await transaction(work) if written and is_lost() else value

    vars(database).update(fetch=fetch_twice, transaction=transact_twice)
