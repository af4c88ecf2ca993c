"""What Stripe is asked for: parameters that are the same each time, as its idempotency keys want.

Source: payouts contract section 6; new.
"""

import json
from itertools import islice

from stripe.params import (
    AccountCreateParams,
    PayoutCreateParams,
    TransferCreateParams,
)

from clawsettle.domain.providers import PayoutOrder

_METADATA_MAX, _NAME_MAX, _VALUE_MAX = 50, 40, 500


def account_parameters(account_id: str) -> AccountCreateParams:
    """Ask for an account with the Express dashboard that is paid out to by order only."""
    return {
        "controller": {
            "fees": {"payer": "application"},
            "losses": {"payments": "application"},
            "requirement_collection": "stripe",
            "stripe_dashboard": {"type": "express"},
        },
        "capabilities": {"transfers": {"requested": True}},
        # On a schedule of its own Stripe would pay out what was transferred before we do.
        "settings": {"payouts": {"schedule": {"interval": "manual"}}},
        "metadata": {"account_id": account_id},
    }


def transfer_parameters(order: PayoutOrder) -> TransferCreateParams:
    """Ask for the order's amount on its connected account."""
    return {
        "amount": order.amount_minor,
        "currency": order.currency.lower(),
        "destination": order.connect_account_id,
        "transfer_group": order.payout_id,
        "metadata": order_metadata(order),
    }


def payout_parameters(order: PayoutOrder, transfer_id: str) -> PayoutCreateParams:
    """Ask for the payout of what was transferred; its metadata name the transfer.

    Of the caller's metadata it has the scalars, as far as Stripe takes them, by name; ours win.
    """
    ours = {**order_metadata(order), "transfer_id": transfer_id}
    theirs = {}
    for name, value in sorted((order.metadata or {}).items()):
        if isinstance(value, str | int | float):
            said = value if isinstance(value, str) else json.dumps(value)
            if _is_taken(name, _NAME_MAX) and "[" not in name and _is_taken(said, _VALUE_MAX):
                theirs[name] = said
    return {
        "amount": order.amount_minor,
        "currency": order.currency.lower(),
        "metadata": {**dict(islice(theirs.items(), _METADATA_MAX - len(ours))), **ours},
    }


def order_metadata(order: PayoutOrder) -> dict[str, str]:
    """Return what each object that is made for an order says."""
    return {"payout_id": order.payout_id, "account_id": order.account_id}


def _is_taken(said: str, most: int) -> bool:
    return 0 < len(said) <= most and not any("\ud800" <= c <= "\udfff" for c in said)
