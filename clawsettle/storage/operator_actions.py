"""Who did what by hand, and why: in the change's own commit, so neither is without the other."""

from collections.abc import Sequence
from datetime import datetime

from attrs import frozen

from clawsettle.storage.bridge import Database, Transaction
from clawsettle.storage.queries import load_queries

_SQL = load_queries("operator_action")


@frozen
class Operator:
    """Who acts, and why.

    ``actor`` is the fingerprint of the key that was used; ``by`` the name the caller gave, which
    nobody has checked.
    """

    actor: str
    why: str
    by: str | None = None


@frozen
class OperatorAction:
    """One thing that an operator did, at a UTC instant."""

    action: str
    operator: Operator
    at: datetime


async def record_action(
    transaction: Transaction, kind: str, subject: str, action: str, operator: Operator
) -> None:
    """Keep an action in the transaction of the change that it is about.

    Raises: StorageUnavailable or StorageError. Source: new.
    """
    await transaction.fetch(
        _SQL["record_action"], kind, subject, action, operator.actor, operator.by, operator.why
    )


async def actions_of(database: Database, kind: str, subject: str) -> Sequence[OperatorAction]:
    """Return what was done to one thing, oldest first.

    Raises: StorageUnavailable or StorageError. Source: new.
    """
    rows = await database.fetch(_SQL["actions_of"], kind, subject)
    return [
        OperatorAction(row["action"], Operator(row["actor"], row["why"], row["by"]), row["at"])
        for row in rows
    ]
