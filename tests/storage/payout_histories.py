"""Payouts with a past: rows and audit trails as the rules make them, at instants of the test's."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from attrs import frozen

from clawsettle.domain import payout_events as events
from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.payout_transitions import Audit, apply
from clawsettle.domain.payouts import Payout, PayoutStatus, PayoutStep
from clawsettle.domain.providers import ProviderStatus, Recalled, Sent, Unanswered
from clawsettle.storage.bridge import Database
from clawsettle.storage.payout_rows import audit_row, payout_row
from clawsettle.storage.queries import load_queries

S = PayoutStatus
NOON = datetime(2026, 2, 11, 12, tzinfo=UTC)
ACCOUNT_ID = "acc_payout_1"
CONNECT_ID = "acct_2d9613ecee4e99e2374cc591"

_LOCKED = (S.SENDING,)
_SENT = (*_LOCKED, S.SUBMITTED)
_PAID = (*_SENT, S.FINALIZING_PAID, S.PAID)
PASTS: Mapping[PayoutStatus, Sequence[PayoutStatus]] = {
    S.INITIATED: (),
    S.SENDING: _LOCKED,
    S.UNKNOWN: (*_LOCKED, S.UNKNOWN),
    S.SUBMITTED: _SENT,
    S.FINALIZING_PAID: _PAID[:-1],
    S.PAID: _PAID,
    S.FINALIZING_FAILED: (*_SENT, S.FINALIZING_FAILED),
    S.FAILED: (*_SENT, S.FINALIZING_FAILED, S.FAILED),
    S.FINALIZING_CANCELED: (*_SENT, S.FINALIZING_CANCELED),
    S.CANCELED: (*_SENT, S.FINALIZING_CANCELED, S.CANCELED),
    S.RETURNING: (*_PAID, S.RETURNING),
    S.RETURNED: (*_PAID, S.RETURNING, S.RETURNED),
}
"""How a payout comes to each status from ``initiated``."""


@frozen
class History:
    """A payout as it is at the end, and the audit rows on its way there."""

    payout: Payout
    audits: Sequence[tuple[Audit, datetime]]


def history(
    key: str = "idem_payout_1",
    end: PayoutStatus = S.PAID,
    *,
    created_at: datetime = NOON,
    step: timedelta = timedelta(seconds=1),
    steps: Sequence[timedelta] | None = None,
    **first: Any,
) -> History:
    """Play a payout up to ``end``; its n-th step comes ``steps[n]`` after the one before."""
    payout_id = f"pout_{sha256_hex(f'pout:{key}')[:28]}"
    known: dict[str, Any] = {
        "payout_id": payout_id,
        "idempotency_key": key,
        "request_hash": sha256_hex(key),
        "provider": "stripe",
        "account_id": ACCOUNT_ID,
        "account_did": "did:key:alice",
        "connect_account_id": CONNECT_ID,
        "clearing_domain": "clawsettle.payouts",
        "amount_minor": 1200,
        "currency": "USD",
        "metadata": None,
        "status": S.INITIATED,
        "keyed_at": created_at,
        "created_at": created_at,
        "updated_at": created_at,
        "status_at": created_at,
    }
    payout, now = Payout(**known | first), created_at
    audits: list[tuple[Audit, datetime]] = []
    for place, status in enumerate(PASTS[end]):
        now += steps[place] if steps else step
        for event in _events(payout, status):
            transition = apply(payout, event, now=now)
            payout = transition.payout
            audits += [(audit, now) for audit in transition.audits]
        assert payout.status is status
    return History(attrs.evolve(payout, due_at=None if payout.status.is_end else now), audits)


def external_id(payout: Payout) -> str:
    """The provider's id that a payout gets."""
    return f"po_{sha256_hex(f'po:{payout.payout_id}:{payout.connect_account_id}')[:24]}"


def _events(payout: Payout, status: PayoutStatus) -> list[events.PayoutEvent]:
    """The events that lead a payout to its next status."""
    name = payout.payout_id.removeprefix("pout_")[:8]
    external = external_id(payout)
    made: Mapping[PayoutStatus, events.PayoutEvent] = {
        S.SENDING: events.LockApplied(f"evt_lock_{name}"),
        S.UNKNOWN: events.SendUnanswered(Unanswered("no answer")),
        S.SUBMITTED: events.SendAnswered(Sent(external, f"tr_{name}")),
        S.FINALIZING_PAID: _said(external, ProviderStatus.PAID),
        S.PAID: events.Finalized(f"evt_finalize_{name}"),
        S.FINALIZING_FAILED: _said(external, ProviderStatus.FAILED),
        S.FAILED: events.RolledBack(f"evt_rollback_{name}"),
        S.FINALIZING_CANCELED: _said(external, ProviderStatus.CANCELED),
        S.CANCELED: events.RolledBack(f"evt_rollback_{name}"),
        S.RETURNING: _said(external, ProviderStatus.FAILED),
        S.RETURNED: events.Returned(f"evt_return_{name}"),
    }
    recalled = [events.RecallDone(Recalled(f"trr_{name}"))]
    return [*(recalled if payout.next_step() is PayoutStep.RECALL else []), made[status]]


def _said(external: str, status: ProviderStatus) -> events.News:
    return events.news(Sent(external, None, status), f"payout.{status}:evt_1")


async def keep(database: Database, *histories: History) -> None:
    """Store payouts, their audit trails, and the account that they all go to."""
    await keep_account(database)
    statements = load_queries("payouts")
    payouts = [one.payout for one in histories]
    await database.fetch(statements["insert"], [payout_row(payout) for payout in payouts])
    await store(database, histories)


async def store(database: Database, histories: Iterable[History]) -> None:
    """Bring stored payouts to where these histories end."""
    rows = [
        audit_row(one.payout.payout_id, audit, at) for one in histories for audit, at in one.audits
    ]
    await database.fetch(
        load_queries("payouts")["store"],
        [payout_row(one.payout) for one in histories],
        *[[row[place] for row in rows] for place in range(6)],
        [],
        [],
    )


async def keep_account(database: Database) -> None:
    await database.fetch(
        "INSERT INTO connect_account (account_id, account_did, connect_account_id,"
        " onboarding_status, onboarding_url) VALUES ($1, 'did:key:alice', $2, 'active', 'https://o')"
        " ON CONFLICT DO NOTHING",
        ACCOUNT_ID,
        CONNECT_ID,
    )
