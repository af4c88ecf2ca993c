"""What the embedded ledger must do, in plain Python: dictionaries, no hashes, no ids, no storage.

Written from the contract and our additions to it, not from the ledger's code; the tests ask both
the same. An account is called by its DID, or ``clearing:<domain>``; amounts are minor units.
Source: ledger-api contract sections 2 to 9, 11 and 13.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from tests.domain.ledger_requests import SHORT_IDS, Asked, Route

NEXT = {
    ("payin", "pending"): {"confirmed", "failed", "reversed"},
    ("payin", "confirmed"): {"reversed"},
    ("payin", "failed"): {"confirmed"},
    ("refund", "pending"): {"confirmed", "failed", "reversed"},
    ("refund", "confirmed"): {"reversed"},
    ("payout", "pending"): {"confirmed", "failed", "reversed"},
    ("payout", "confirmed"): {"reversed", "failed"},
}
"""Direction and status -> the other statuses that may follow."""

PAYOUT_STEP = re.compile("payout:(lock|finalize|rollback):(.*)")


class Refused(Exception):
    """The request is refused with the code that is the only argument."""


def refuse_if(refused: bool, code: str) -> None:
    if refused:
        raise Refused(code)


@define
class Settlement:
    status: str
    account: str
    amount: int
    refund_of: str | None


@define
class Reservation:
    account: str
    amount: int
    active: bool = True


@define
class Hold:
    source: str
    account: str
    amount: int
    release_key: str | None = None


@define
class LedgerModel:
    """The whole book. ``outside`` is what came from each provider, ``owed`` what accounts owe."""

    balances: dict[str, Counter[str]] = field(factory=dict)
    account_by_id: dict[str, str] = field(factory=dict)
    outside: Counter[str] = field(factory=Counter)
    owed: Counter[str] = field(factory=Counter)
    settlements: dict[tuple[str, str, str], Settlement] = field(factory=dict)
    ingested: dict[str, Mapping[str, object]] = field(factory=dict)
    transfers: dict[str, tuple[object, ...]] = field(factory=dict)
    payouts: dict[str, Reservation] = field(factory=dict)
    holds: dict[str, Hold] = field(factory=dict)

    def ask(self, asked: Asked) -> str:
        """Return what becomes of a request: ``created``, ``repeated``, or a refusal's code.

        A transfer that takes reserved money, which only an admin's own move may, is ``undercut``.
        """
        steps = {
            Route.OPEN_ACCOUNT: self._open_account,
            Route.OPEN_CLEARING: self._open_clearing,
            Route.INGEST: self._ingest,
            Route.TRANSFER: self._transfer,
            Route.APPLY_HOLD: self._apply_hold,
            Route.RELEASE_BY_SOURCE: self._release,
            Route.RELEASE_HOLD: self._release,
        }
        try:
            return steps[asked.route](asked, dict(asked.body))
        except Refused as refused:
            return str(refused)

    def reserved(self, account: str) -> int:
        """Return what of an account's held money belongs to payouts and holds."""
        return sum(
            one.amount for one in self.payouts.values() if one.active and one.account == account
        ) + sum(
            one.amount
            for one in self.holds.values()
            if one.release_key is None and one.account == account
        )

    def _open_account(self, _asked: Asked, body: dict[str, Any]) -> str:
        refuse_if(body["did"].startswith(("did:internal:", "did:claw:account:")), "INVALID_DID")
        return self._open(body["did"])

    def _open_clearing(self, _asked: Asked, body: dict[str, Any]) -> str:
        return self._open(f"clearing:{body['domain']}")

    def _open(self, account: str) -> str:
        if account in self.balances:
            return "repeated"
        self.balances[account] = Counter()
        if account in SHORT_IDS:
            # Whoever comes first has the short id; the other's is longer, and nobody guesses it.
            self.account_by_id.setdefault(SHORT_IDS[account], account)
        return "created"

    def _ingest(self, asked: Asked, body: dict[str, Any]) -> str:
        body["amount_minor"] = int(body["amount_minor"])
        if asked.key in self.ingested:
            refuse_if(self.ingested[asked.key] != body, "IDEMPOTENCY_KEY_REUSED")
            return "repeated"
        refuse_if(body["currency"] != "USD", "UNSUPPORTED_CURRENCY")
        refuse_if(body["account_id"] not in self.account_by_id, "NOT_FOUND")
        name = (body["provider"], body["external_payment_id"], body["direction"])
        told = Settlement(
            body["status"],
            self.account_by_id[body["account_id"]],
            body["amount_minor"],
            body.get("refund_of"),
        )
        known = self.settlements.get(name)
        changed = known is None or self._follows(name[2], known, told)
        if changed:
            was_confirmed = known is not None and known.status == "confirmed"
            if known is not None:
                told.refund_of = known.refund_of
            if was_confirmed and told.status == "failed":
                told.status = "reversed"  # a payout that a bank returned
            self._settle(name, told, was_confirmed=was_confirmed)
            self.settlements[name] = told
        self.ingested[asked.key] = body
        return "created" if changed else "repeated"

    def _follows(self, direction: str, known: Settlement, told: Settlement) -> bool:
        """Return whether the news changes what is known; refuse it if it contradicts that."""
        # A payin that failed has moved nothing, and may succeed with another amount.
        any_amount = direction == "payin" and "failed" in (known.status, told.status)
        same = (
            known.account == told.account
            and (any_amount or known.amount == told.amount)
            and told.refund_of in (None, known.refund_of)
        )
        refuse_if(not same, "DUPLICATE_CONFLICT")
        if told.status == known.status or (direction, known.status, told.status) == (
            "payout",
            "reversed",
            "failed",
        ):
            return False
        refuse_if(
            told.status not in NEXT.get((direction, known.status), set()),
            "INVALID_STATUS_TRANSITION",
        )
        return True

    def _settle(self, name: tuple[str, str, str], told: Settlement, *, was_confirmed: bool) -> None:
        provider, payment, direction = name
        confirmed, undone = told.status == "confirmed", was_confirmed and told.status == "reversed"
        available = self.balances[told.account]["A"]
        if (direction == "payin" and confirmed) or (direction == "refund" and undone):
            collected = min(self.owed[told.account], told.amount)
            self.outside[provider] += told.amount
            self.owed[told.account] -= collected
            self.balances[told.account]["A"] += told.amount - collected
        elif (direction == "payin" and undone) or (direction == "refund" and confirmed):
            linked = self._payin(provider, payment if undone else told.refund_of)
            if linked is not None:
                refuse_if(linked.account != told.account, "DUPLICATE_CONFLICT")
                left = 0 if linked.status == "reversed" else linked.amount
                left -= self._refunded(provider, payment if undone else told.refund_of)
                refuse_if(told.amount > left, "REFUND_EXCEEDS_PAYIN")
            uncovered = max(told.amount - available, 0)
            may_owe = direction == "refund" and linked is not None
            refuse_if(uncovered > 0 and not may_owe, "INSUFFICIENT_FUNDS")
            self.outside[provider] -= told.amount
            self.owed[told.account] += uncovered
            self.balances[told.account]["A"] -= told.amount - uncovered

    def _payin(self, provider: str, payment: str | None) -> Settlement | None:
        """Return the payin whose money leaves, if its money ever came."""
        payin = self.settlements.get((provider, str(payment), "payin"))
        return payin if payin and payin.status in ("confirmed", "reversed") else None

    def _refunded(self, provider: str, payment: str | None) -> int:
        return sum(
            one.amount
            for (its_provider, _, direction), one in self.settlements.items()
            if (its_provider, direction) == (provider, "refund")
            and (one.status, one.refund_of) == ("confirmed", payment)
        )

    def _transfer(self, _asked: Asked, body: dict[str, Any]) -> str:
        key, amount = body["idempotency_key"], int(body["amount_minor"])
        refuse_if(body["currency"].upper() != "USD", "UNSUPPORTED_CURRENCY")
        refuse_if(key.startswith(("payment_settlement:", "risk_hold:")), "INVALID_REQUEST")
        money = (body["from"], body["to"], amount)
        if key in self.transfers:
            refuse_if(self.transfers[key] != money, "IDEMPOTENCY_KEY_REUSED")
            return "repeated"
        source, letter = self._account(body["from"]["account"]), body["from"]["bucket"]
        destination, to_letter = self._account(body["to"]["account"]), body["to"]["bucket"]
        refuse_if((source, letter) == (destination, to_letter), "INVALID_REQUEST")
        refuse_if(source not in self.balances, "INSUFFICIENT_FUNDS")
        step = PAYOUT_STEP.fullmatch(key)
        stage, payout = step.groups() if step else ("", "")
        spent = None
        if letter == "H" and stage in ("finalize", "rollback"):
            spent = self.payouts.get(payout)
        undercut = False
        if spent is not None:
            fits = (spent.active, spent.account, spent.amount) == (True, source, amount)
            refuse_if(not fits, "CONFLICT")
        elif letter == "H":
            undercut = self.balances[source]["H"] - amount < self.reserved(source)
            refuse_if(undercut and source != destination, "INSUFFICIENT_FUNDS")
        refuse_if(self.balances[source][letter] < amount, "INSUFFICIENT_FUNDS")
        self._open(destination)
        self.balances[source][letter] -= amount
        self.balances[destination][to_letter] += amount
        self.transfers[key] = money
        if spent is not None:
            spent.active = False
        if stage == "lock" and (source, letter, to_letter) == (destination, "A", "H"):
            self.payouts[payout] = Reservation(source, amount)
        return "undercut" if undercut else "created"

    def _account(self, text: str) -> str:
        """Return the account that a reference means, which need not be open unless it is by id."""
        account_id = text.removeprefix("did:claw:account:")
        if account_id.startswith("acc_"):
            refuse_if(account_id not in self.account_by_id, "INVALID_ACCOUNT")
            return self.account_by_id[account_id]
        named = text.removeprefix("clearing:").strip() if text.startswith("clearing:") else ""
        known = text in SHORT_IDS or named != ""
        refuse_if(not known, "INVALID_ACCOUNT")
        return text

    def _apply_hold(self, _asked: Asked, body: dict[str, Any]) -> str:
        key, source, text = body["idempotency_key"], body["source_loss_event_id"], body["account"]
        amount = int(body["amount_minor"])
        refuse_if(key.startswith("rsk_"), "INVALID_REQUEST")
        if key in self.holds:
            known = self.holds[key]
            try:
                same = (known.source, known.account, known.amount) == (
                    source,
                    self._account(text),
                    amount,
                )
            except Refused:
                same = False
            refuse_if(not same, "IDEMPOTENCY_KEY_REUSED")
            return "repeated"
        bound = source in [one.source for one in self.holds.values()]
        refuse_if(bound, "SOURCE_LOSS_EVENT_ALREADY_BOUND")
        account = self._account(text)
        balances = self.balances.get(account, Counter())
        refuse_if(balances["A"] < amount, "INSUFFICIENT_FUNDS")
        balances["A"] -= amount
        balances["H"] += amount
        self.holds[key] = Hold(source, account, amount)
        return "created"

    def _release(self, asked: Asked, body: dict[str, Any]) -> str:
        source, key = body.get("source_loss_event_id"), body["idempotency_key"]
        hold = self.holds.get(asked.applied_under) or next(
            (one for one in self.holds.values() if one.source == source), None
        )
        if hold is None:
            raise Refused("NOT_FOUND")
        if hold.release_key is not None:
            refuse_if(hold.release_key != key, "IDEMPOTENCY_CONFLICT")
            return "repeated"
        balances = self.balances[hold.account]
        refuse_if(balances["H"] < hold.amount, "RISK_HOLD_RELEASE_FAILED")
        balances["H"] -= hold.amount
        balances["A"] += hold.amount
        hold.release_key = key
        return "created"
