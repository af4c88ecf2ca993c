"""Escrow, clawinsure, clawincome and clawbounties, as far as loss events are told to them.

Each refuses what the service that it stands for refuses, with the same codes.
Source: loss-events 5; 10 (7).
"""

import re
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

from attrs import asdict, define, evolve, field, frozen, validators

from clawsettle.domain.canonical import sha256_hex
from clawsettle.sandbox.risk_answers import Asked, Json, KeyedAnswers, Refused, Said, newest

_RISK_HOLD = re.compile(r"/v1/escrows/([^/]+)/risk-hold")
_ESCROW_ID = re.compile(r"esc_[0-9a-fA-F-]+")
_BOUNTY_ID = re.compile(r"bty_.+")


class EscrowStatus(StrEnum):
    """How an escrow stands; one that is ``absent`` is not there."""

    HELD = "held"
    FROZEN = "frozen"
    SETTLED = "settled"
    ABSENT = "absent"


@frozen
class RiskHold:
    """What freezes an escrow, or froze it last."""

    source_loss_event_id: str
    reason: str
    status: str = "active"


@frozen
class Escrow:
    """An escrow and its only hold."""

    status: EscrowStatus = EscrowStatus.HELD
    risk_hold: RiskHold | None = None


@define(eq=False)
class Escrows:
    """The escrow service: an escrow that it was never told of is ``held``.

    It keeps no keys and looks at the hold alone. Whoever releases lifts it, for whichever event it
    is held.
    """

    _escrows: dict[str, Escrow] = field(factory=dict, init=False)

    def answer(self, asked: Asked) -> Said:
        """Freeze or release. Raises: Refused."""
        escrow_id = _escrow_id(asked.path)
        escrow = self.escrow(escrow_id)
        if escrow.status is EscrowStatus.ABSENT:
            raise Refused(404, "NOT_FOUND", "there is no such escrow")
        match asked.text("action"):
            case "apply":
                escrow = _frozen(escrow, asked)
            case "release":
                escrow = _released(escrow, asked)
            case _:
                raise Refused(400, "INVALID_REQUEST", "action must be apply or release")
        self._escrows[escrow_id] = escrow
        assert escrow.risk_hold is not None  # noqa: S101 - both have one
        return Said(200, {"escrow_id": escrow_id, "risk_hold": asdict(escrow.risk_hold)})

    def escrow(self, escrow_id: str) -> Escrow:
        """Return how an escrow stands."""
        return self._escrows.get(escrow_id, Escrow())

    def seed(self, given: Mapping[str, Any]) -> None:
        """Set escrows, by their ids, to ``held``, ``settled`` or ``absent``, without a hold."""
        seeded: dict[str, Escrow] = {}
        for escrow_id, word in given.items():
            status = EscrowStatus(word)
            if not _ESCROW_ID.fullmatch(escrow_id) or status is EscrowStatus.FROZEN:
                raise ValueError(f"{escrow_id} cannot be made {word}")
            seeded[escrow_id] = Escrow(status)
        self._escrows |= seeded

    def state(self) -> Json:
        """Show the escrows that it was told of."""
        return {key: asdict(escrow) for key, escrow in newest(self._escrows).items()}


def _escrow_id(path: str) -> str:
    found = _RISK_HOLD.fullmatch(path)
    if found is None:
        raise Refused(404, "NOT_FOUND", "there is no such route")
    escrow_id = unquote(found[1])
    if not _ESCROW_ID.fullmatch(escrow_id):
        raise Refused(400, "INVALID_REQUEST", "an escrow id is esc_ and hexadecimal digits")
    return escrow_id


def _frozen(escrow: Escrow, asked: Asked) -> Escrow:
    event_id, reason = asked.text("source_loss_event_id"), asked.text("reason")
    if escrow.status is EscrowStatus.SETTLED:
        raise Refused(409, "INVALID_STATUS", "the escrow is neither held nor frozen")
    hold = escrow.risk_hold
    if escrow.status is EscrowStatus.FROZEN and hold is not None:
        if hold.source_loss_event_id != event_id:
            raise Refused(409, "IDEMPOTENCY_CONFLICT", "the escrow is held for another event")
        return escrow
    return Escrow(EscrowStatus.FROZEN, RiskHold(event_id, reason))


def _released(escrow: Escrow, asked: Asked) -> Escrow:
    asked.text("source_loss_event_id")
    if escrow.status is not EscrowStatus.FROZEN or escrow.risk_hold is None:
        raise Refused(409, "RISK_HOLD_NOT_ACTIVE", "the escrow is not held")
    return Escrow(EscrowStatus.HELD, evolve(escrow.risk_hold, status="released"))


@frozen(kw_only=True)
class Policy:
    """What an account is insured for, in minor units; only an ``active`` one takes claims."""

    coverage_minor: int = field(converter=int)
    is_active: bool = field(default=True, validator=validators.instance_of(bool))


@define(eq=False)
class Insurance:
    """clawinsure: an account is uninsured unless it was seeded with a policy."""

    claims: dict[str, Json] = field(factory=dict, init=False)
    _policies: dict[str, Policy] = field(factory=dict, init=False)
    _claimed_minor: Counter[str] = field(factory=Counter, init=False)
    _keys: KeyedAnswers = field(factory=KeyedAnswers, init=False)

    def answer(self, asked: Asked) -> Said:
        """File a claim. Raises: Refused."""
        if asked.path != "/v1/claims/auto":
            raise Refused(404, "NOT_FOUND", "there is no such route")
        return self._keys.once(asked, lambda: {"claim": self._file(asked), "auto": True})

    def _file(self, asked: Asked) -> Json:
        names = [asked.text("account_id"), asked.text("account_did")]
        insured = next((name for name in names if name in self._policies), None)
        claim = _claim("claim_id", "clm", asked)
        if insured is None:
            raise Refused(404, "NOT_FOUND", "the account has no policy")
        policy, amount_minor = self._policies[insured], asked.amount_minor()
        if not policy.is_active:
            raise Refused(409, "POLICY_NOT_CLAIMABLE", "the policy takes no claims")
        if self._claimed_minor[insured] + amount_minor > policy.coverage_minor:
            raise Refused(409, "REQUEST_EXCEEDS_COVERAGE", "the policy does not cover it")
        self._claimed_minor[insured] += amount_minor
        self.claims[asked.key] = claim
        return claim

    def seed(self, given: Mapping[str, Any]) -> None:
        """Give accounts, by id or DID, a policy: ``{"coverage_minor": "5000"}``; None takes it."""
        policies = {
            account: None if policy is None else Policy(**policy)
            for account, policy in given.items()
        }
        for account, policy in policies.items():
            self._claimed_minor.pop(account, None)
            self._policies.pop(account, None)
            if policy is not None:
                self._policies[account] = policy

    def state(self) -> Json:
        """Show policies and claims."""
        policies = {key: asdict(policy) for key, policy in newest(self._policies).items()}
        return {"policies": policies, "claims": newest(self.claims)}


@define(eq=False)
class Income:
    """clawincome: each account has a balance, in minor units, which may fall below zero."""

    adjustments: dict[str, Json] = field(factory=dict, init=False)
    balances_minor: dict[str, int] = field(factory=dict, init=False)
    _keys: KeyedAnswers = field(factory=KeyedAnswers, init=False)

    def answer(self, asked: Asked) -> Said:
        """Debit or credit. Raises: Refused."""
        if asked.path != "/v1/risk/adjustments":
            raise Refused(404, "NOT_FOUND", "there is no such route")
        return self._keys.once(asked, lambda: {"ok": True, "adjustment": self._adjust(asked)})

    def _adjust(self, asked: Asked) -> Json:
        account_id, direction = asked.text("account_id"), asked.text("direction")
        if direction not in {"debit", "credit"}:
            raise Refused(400, "INVALID_REQUEST", "direction must be debit or credit")
        adjustment = {**_claim("adjustment_id", "adj", asked), "direction": direction}
        amount_minor = asked.amount_minor()
        moved_minor = amount_minor if direction == "credit" else -amount_minor
        self.balances_minor[account_id] = self.balances_minor.get(account_id, 0) + moved_minor
        self.adjustments[asked.key] = adjustment
        return adjustment

    def seed(self, given: Mapping[str, Any]) -> None:
        """Set the balances of accounts, in minor units."""
        self.balances_minor |= {account: int(balance) for account, balance in given.items()}

    def state(self) -> Json:
        """Show balances and adjustments."""
        balances = {key: str(minor) for key, minor in newest(self.balances_minor).items()}
        return {"balances_minor": balances, "adjustments": newest(self.adjustments)}


class BountyStatus(StrEnum):
    """How a bounty stands; one that is ``absent`` is not there."""

    OPEN = "open"
    DISPUTED = "disputed"
    ABSENT = "absent"


@define(eq=False)
class Bounties:
    """clawbounties: a bounty that it was never told of is ``open``, and stays disputed once it is.

    ``loss_events`` has the bounty that each is about, ``cleared`` the key that cleared it.
    """

    loss_events: dict[str, str] = field(factory=dict, init=False)
    cleared: dict[str, str] = field(factory=dict, init=False)
    _bounties: dict[str, BountyStatus] = field(factory=dict, init=False)
    _keys: KeyedAnswers = field(factory=KeyedAnswers, init=False)

    def answer(self, asked: Asked) -> Said:
        """Dispute a bounty, or note that it is cleared. Raises: Refused."""
        match asked.path:
            case "/v1/risk/loss-events":
                act = self._dispute
            case "/v1/risk/loss-events/clear":
                act = self._clear
            case _:
                raise Refused(404, "NOT_FOUND", "there is no such route")
        event_id, bounty_id = asked.text("source_loss_event_id"), asked.text("bounty_id")
        if not _BOUNTY_ID.fullmatch(bounty_id):
            raise Refused(400, "INVALID_REQUEST", "a bounty id begins with bty_")
        return self._keys.once(asked, lambda: act(event_id, bounty_id, asked))

    def bounty(self, bounty_id: str) -> BountyStatus:
        """Return how a bounty stands."""
        return self._bounties.get(bounty_id, BountyStatus.OPEN)

    def _dispute(self, event_id: str, bounty_id: str, asked: Asked) -> Json:
        asked.amount_minor()
        if self.bounty(bounty_id) is BountyStatus.ABSENT:
            raise Refused(404, "NOT_FOUND", "there is no such bounty")
        if event_id in self.loss_events:
            raise Refused(409, "CONFLICT", "the loss event is known under another key")
        self.loss_events[event_id] = bounty_id
        self._bounties[bounty_id] = BountyStatus.DISPUTED
        return {"ok": True, "loss_event": {**_noted(event_id, bounty_id), "status": "recorded"}}

    def _clear(self, event_id: str, bounty_id: str, asked: Asked) -> Json:
        asked.text("reason")
        if self.loss_events.get(event_id) != bounty_id:
            raise Refused(404, "NOT_FOUND", "the bounty has no such loss event")
        if event_id in self.cleared:
            raise Refused(409, "RISK_CLEAR_ALREADY_EXISTS", "it was cleared under another key")
        self.cleared[event_id] = asked.key
        return {"ok": True, "clear": {**_noted(event_id, bounty_id), "status": "cleared"}}

    def seed(self, given: Mapping[str, Any]) -> None:
        """Set bounties, by their ids, to ``open``, ``disputed`` or ``absent``."""
        self._bounties |= {bounty_id: BountyStatus(word) for bounty_id, word in given.items()}

    def state(self) -> Json:
        """Show the bounties that it was told of, and what is cleared."""
        return {
            "bounties": newest(self._bounties),
            "loss_events": newest(self.loss_events),
            "cleared": newest(self.cleared),
        }


def _noted(event_id: str, bounty_id: str) -> Json:
    return {"source_loss_event_id": event_id, "bounty_id": bounty_id}


def _claim(id_name: str, prefix: str, asked: Asked) -> Json:
    names = ("source_loss_event_id", "account_id", "account_did", "currency", "reason_code")
    return {
        id_name: f"{prefix}_{sha256_hex(asked.key)[:24]}",
        "amount_minor": str(asked.amount_minor()),
        **{name: asked.text(name) for name in names},
    }
