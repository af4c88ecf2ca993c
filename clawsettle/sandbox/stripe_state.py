"""What the sandbox's Stripe has: accounts, what is on them, transfers to them, payouts from them.

Each change is one synchronous step, so no call ever sees half of another's. The platform's own
balance is without end; a connected account's is counted, and nothing on it may fall below zero.
"""

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from clawsettle.sandbox.stripe_errors import Refused, invalid, missing
from clawsettle.sandbox.stripe_objects import (
    Json,
    account_link_object,
    account_object,
    account_standing,
    payout_object,
    payout_standing,
    reversal_object,
    stripe_id,
    transfer_object,
)

ONBOARDING_PATH = "/connect/onboard/"

_GAVE_BACK = frozenset({"failed", "canceled"})
_EVENT_TYPE = {"in_transit": "payout.updated"}


class Emit(Protocol):
    """Takes what has happened, as an event says it."""

    def __call__(
        self, event_type: str, content: Json, *, account: str, previous: Json | None = None
    ) -> None:
        """Take the event; the content is as it stands now and will change."""
        ...


@frozen
class OnboardingLink:
    """A link to an account's onboarding, and where its page leads to: when it is done, or old."""

    expires_at_s: int
    return_url: str | None
    refresh_url: str | None


@define(eq=False)
class ConnectedAccount:
    """An account: its object, its balances in minor units, the latest link to its onboarding."""

    content: Json
    balance_minor: Counter[str] = field(factory=Counter)
    link: OnboardingLink | None = None


@frozen(eq=False)
class Payout:
    """A payout, and the connected account it is paid from."""

    account_id: str
    content: Json


@define(eq=False)
class StripeState:
    """See the module. Times are Unix seconds, ids are keys; all dicts are in order of creation.

    Raises: Refused, from every method, for what Stripe would refuse; nothing has changed then.
    """

    now_s: Callable[[], float]
    emit: Emit
    base_url: str
    accounts: dict[str, ConnectedAccount] = field(factory=dict)
    transfers: dict[str, Json] = field(factory=dict)
    payouts: dict[str, Payout] = field(factory=dict)

    @property
    def _created_s(self) -> int:
        return int(self.now_s())

    def account(self, account_id: str) -> ConnectedAccount:
        """Return an account that is named by the caller's credentials or address."""
        if (account := self.accounts.get(account_id)) is None:
            text = f"The provided key does not have access to account '{account_id}'."
            raise invalid(text, code="account_invalid", status=403)
        return account

    def transfer(self, transfer_id: str) -> Json:
        """Return a transfer."""
        if (transfer := self.transfers.get(transfer_id)) is None:
            raise missing("transfer", transfer_id)
        return transfer

    def payout(self, payout_id: str, account_id: str | None) -> Payout:
        """Return a payout of an account; another account's does not exist for it."""
        payout = self.payouts.get(payout_id)
        if payout is None or payout.account_id != account_id:
            raise missing("payout", payout_id)
        return payout

    def open_account(self, asked: Json) -> Json:
        """Open an account that may do nothing yet."""
        account_type = asked.get("type", "none" if "controller" in asked else "standard")
        wanted = {
            name
            for name, capability in asked.get("capabilities", {}).items()
            if capability.get("requested")
        }
        if account_type == "standard":
            wanted |= {"card_payments", "transfers"}
        content = account_object(
            stripe_id("acct"),
            created_s=self._created_s,
            account_type=account_type,
            capabilities=sorted(wanted),
            country=asked.get("country", "US"),
            currency=asked.get("default_currency", "usd"),
            email=asked.get("email"),
            metadata=asked.get("metadata"),
        )
        self.accounts[content["id"]] = ConnectedAccount(content)
        return content

    def link_account(self, asked: Json) -> Json:
        """Make a link to the page on which an account's onboarding is completed."""
        account_id = asked["account"]
        if account_id not in self.accounts:
            raise missing("account", account_id, param="account", status=400)
        url = f"{self.base_url}{ONBOARDING_PATH}{account_id}"
        content = account_link_object(url, created_s=self._created_s)
        self.accounts[account_id].link = OnboardingLink(
            content["expires_at"], asked.get("return_url"), asked.get("refresh_url")
        )
        return content

    def enable_account(self, account_id: str, *, enabled: bool = True) -> None:
        """Enable what an account has asked for, or disable it; ``account.updated`` tells of it."""
        content = self.account(account_id).content
        self._change(
            "account.updated", content, account_standing(content, enabled=enabled), account_id
        )

    def make_transfer(self, asked: Json) -> Json:
        """Move money of the platform's to an account."""
        amount_minor, currency = _amount(asked), asked["currency"]
        destination = self.accounts.get(asked["destination"])
        if destination is None:
            raise missing("destination", asked["destination"], param="destination", status=400)
        if destination.content["capabilities"].get("transfers") != "active":
            raise invalid(
                "Your destination account needs to have the transfers capability enabled.",
                code="insufficient_capabilities_for_transfer",
            )
        content = transfer_object(
            stripe_id("tr"),
            amount_minor=amount_minor,
            currency=currency,
            destination=asked["destination"],
            created_s=self._created_s,
            description=asked.get("description"),
            transfer_group=asked.get("transfer_group"),
            metadata=asked.get("metadata"),
        )
        self.transfers[content["id"]] = content
        destination.balance_minor[currency] += amount_minor
        return content

    def reverse_transfer(self, transfer_id: str, asked: Json) -> Json:
        """Take back what is left of a transfer, or a part of that, while it is still there."""
        transfer = self.transfer(transfer_id)
        left_minor = transfer["amount"] - transfer["amount_reversed"]
        if left_minor == 0:
            raise invalid(f"Transfer {transfer_id} is already fully reversed.")
        amount_minor = _amount({"amount": left_minor, **asked})
        if amount_minor > left_minor:
            raise invalid("Reversal amount is greater than what is left.", param="amount")
        _take(self.accounts[transfer["destination"]], transfer["currency"], amount_minor)
        content = reversal_object(
            stripe_id("trr"),
            transfer,
            amount_minor=amount_minor,
            created_s=self._created_s,
            metadata=asked.get("metadata") or {},
        )
        transfer["amount_reversed"] += amount_minor
        transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
        transfer["reversals"]["data"].insert(0, content)
        return content

    def make_payout(self, account_id: str, asked: Json) -> Json:
        """Begin to pay out what is on an account; ``payout.created`` tells of it."""
        account = self.account(account_id)
        amount_minor, currency = _amount(asked), asked["currency"]
        if not account.content["payouts_enabled"]:
            raise invalid("Payouts are not enabled for this account.", code="payouts_not_allowed")
        _take(account, currency, amount_minor)
        content = payout_object(
            stripe_id("po"),
            amount_minor=amount_minor,
            currency=currency,
            destination=account.content["external_accounts"]["data"][0]["id"],
            created_s=self._created_s,
            description=asked.get("description"),
            statement_descriptor=asked.get("statement_descriptor"),
            metadata=asked.get("metadata"),
        )
        self.payouts[content["id"]] = Payout(account_id, content)
        self.emit("payout.created", content, account=account_id)
        return content

    def cancel_payout(self, account_id: str, payout_id: str) -> Json:
        """End a payout that has not left yet."""
        payout = self.payout(payout_id, account_id)
        if payout.content["status"] != "pending":
            raise invalid("Payouts can only be canceled while they are pending.")
        self.move_payout(payout_id, "canceled")
        return payout.content

    def move_payout(self, payout_id: str, status: str) -> None:
        """Let a payout reach ``status`` and tell of it; one that gave its money back has ended."""
        payout = self.payouts[payout_id]
        if payout.content["status"] in _GAVE_BACK:
            return
        if status in _GAVE_BACK:
            balance = self.accounts[payout.account_id].balance_minor
            balance[payout.content["currency"]] += payout.content["amount"]
        event_type = _EVENT_TYPE.get(status, f"payout.{status}")
        self._change(event_type, payout.content, payout_standing(status), payout.account_id)

    def _change(self, event_type: str, content: Json, changes: Json, account_id: str) -> None:
        previous = {name: content[name] for name in changes}
        content.update(changes)
        self.emit(event_type, content, account=account_id, previous=previous)


def _amount(asked: Json) -> int:
    if "amount" not in asked:  # optional for the SDK, not for Stripe
        raise invalid("Missing required param: amount.", code="parameter_missing", param="amount")
    amount_minor = int(asked["amount"])
    if amount_minor < 1:
        text = "This value must be greater than or equal to 1."
        raise invalid(text, code="parameter_invalid_integer", param="amount")
    return amount_minor


def _take(account: ConnectedAccount, currency: str, amount_minor: int) -> None:
    if account.balance_minor[currency] < amount_minor:
        raise _uncovered()
    account.balance_minor[currency] -= amount_minor


def _uncovered() -> Refused:
    return invalid("The account's balance does not cover this.", code="balance_insufficient")
