"""Takes orders of payouts: what is new of many becomes rows in one commit.

Guarantees: one payout a key, whoever orders it and however often at once; a new one is leased to
who has taken its order, so nobody else works on it; nothing outside is asked. An order under a key
that stands for another one is refused.
Source: payouts contract sections 3 and 6; 11 (1, 5, 11, 18, 23).
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import trio
from attrs import frozen

from clawsettle.domain.errors import ClawsettleError, ConflictError
from clawsettle.domain.payout_requests import PayoutRequest
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.storage.lease_tokens import birth_token
from clawsettle.storage.payouts import Destination, Leased, Payouts

Taken = Leased | Payout | ClawsettleError
"""A new payout, leased to who asked; the one that the key stands for already; or a refusal."""


@frozen
class PayoutOrders:
    """See the module; ``clearing_domain`` is where the money of new payouts is to go."""

    payouts: Payouts
    clearing_domain: str

    async def take(self, requests: Sequence[PayoutRequest]) -> Sequence[Taken]:
        """Keep what is new of a batch of requests; of several under one key the first counts.

        Raises: StorageUnavailable or StorageError.
        """
        begun = trio.current_time()
        asked = [(request.account_id, request.idempotency_key) for request in requests]
        found = await self.payouts.destinations(asked)
        fresh: dict[str, Payout] = {}
        for request, destination in zip(requests, found, strict=True):
            if destination.known is None and destination.active:
                fresh.setdefault(request.payout_id, self._born(request, destination))
        taken = await self._insert(fresh) if fresh else {}
        ends = begun + self.payouts.schedule.lease_s
        answers: list[Taken] = []
        for request, destination in zip(requests, found, strict=True):
            payout = destination.known or taken.get(request.payout_id)
            born = fresh.get(request.payout_id) if payout is None else None
            if born is not None:
                taken[request.payout_id] = born
                answers.append(Leased(born, ends))
            else:
                answers.append(_known(request, destination, payout))
        return answers

    async def _insert(self, fresh: Mapping[str, Payout]) -> dict[str, Payout]:
        """Keep new payouts; return those whose keys somebody else has taken meanwhile."""
        kept = await self.payouts.insert(list(fresh.values()))
        if len(kept) == len(fresh):
            return {}
        there = await self.payouts.by_ids(fresh.keys() - kept)
        # One with our own token was kept by a try whose answer was lost.
        return {
            payout_id: payout
            for payout_id, payout in there.items()
            if payout.lease_token != fresh[payout_id].lease_token
        }

    def _born(self, request: PayoutRequest, destination: Destination) -> Payout:
        assert destination.account_did is not None  # noqa: S101 - the destination is active
        assert destination.connect_account_id is not None  # noqa: S101 - as before
        now = destination.read_at
        return Payout(
            payout_id=request.payout_id,
            idempotency_key=request.idempotency_key,
            request_hash=request.request_hash(destination.connect_account_id),
            provider="stripe",
            account_id=request.account_id,
            account_did=destination.account_did,
            connect_account_id=destination.connect_account_id,
            clearing_domain=self.clearing_domain,
            amount_minor=request.amount_minor,
            currency=request.currency,
            metadata=request.metadata,
            status=PayoutStatus.INITIATED,
            keyed_at=now,
            created_at=now,
            updated_at=now,
            status_at=now,
            attempts=1,
            due_at=now + timedelta(seconds=self.payouts.schedule.lease_s),
            lease_token=birth_token(),
        )


def _known(request: PayoutRequest, destination: Destination, payout: Payout | None) -> Taken:
    """Return the payout under a request's key, if it is what is asked for now."""
    if payout is None:
        details = {"account_id": request.account_id}
        if destination.connect_account_id is not None:
            details["onboarding_status"] = "pending"
        return ClawsettleError(
            "the account cannot be paid out to yet",
            code="PAYOUT_DESTINATION_NOT_CONFIGURED",
            details=details,
        )
    if payout.request_hash == request.request_hash(payout.connect_account_id):
        return payout
    # Keys are everybody's: who does not own the payout is not told its id.
    is_owner = payout.account_id == request.account_id
    return ConflictError(
        "the idempotency key was used for another payout",
        code="IDEMPOTENCY_KEY_REUSED",
        details={"payout_id": payout.payout_id} if is_owner else {},
    )
