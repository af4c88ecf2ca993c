"""Stripe's objects in the full shape in which Stripe sends them; times in Unix seconds."""

import secrets
import string
from collections.abc import Iterable, Mapping
from typing import Any

from clawsettle.domain.stripe_events import STRIPE_API_VERSION

Json = dict[str, Any]

_ALPHABET = string.ascii_letters + string.digits
_DAY_S = 86_400
_DUE_AT_FIRST = ["business_type", "external_account", "tos_acceptance.date", "tos_acceptance.ip"]


def stripe_id(prefix: str) -> str:
    """Return a fresh id of the shape Stripe gives out, such as ``evt_1Q...``."""
    return f"{prefix}_1" + "".join(secrets.choice(_ALPHABET) for _ in range(23))


def event_object(
    event_type: str,
    content: Mapping[str, object],
    *,
    event_id: str,
    created_s: int,
    livemode: bool = False,
    account: str | None = None,
    previous: Mapping[str, object] | None = None,
) -> Json:
    """Return an event about ``content``.

    ``account`` names the connected account it happened on, ``previous`` what was said before.
    """
    data: Json = {"object": content}
    if previous is not None:
        data["previous_attributes"] = previous
    event: Json = {
        "id": event_id,
        "object": "event",
        "api_version": STRIPE_API_VERSION,
        "created": created_s,
        "data": data,
        "livemode": livemode,
        "pending_webhooks": 1,
        "request": {"id": stripe_id("req"), "idempotency_key": stripe_id("key")},
        "type": event_type,
    }
    return event if account is None else {**event, "account": account}


def list_object(url: str, data: Iterable[Json] = (), *, has_more: bool = False) -> Json:
    """Return one page of a list."""
    return {"object": "list", "data": list(data), "has_more": has_more, "url": url}


def account_object(
    account_id: str,
    *,
    created_s: int,
    account_type: str,
    capabilities: Iterable[str],
    country: str,
    currency: str,
    email: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Json:
    """Return a connected account on which nothing is enabled yet."""
    return {
        "id": account_id,
        "object": "account",
        "business_profile": {
            "annual_revenue": None,
            "estimated_worker_count": None,
            "mcc": None,
            "minority_owned_business_designation": None,
            "name": None,
            "product_description": None,
            "support_address": None,
            "support_email": None,
            "support_phone": None,
            "support_url": None,
            "url": None,
        },
        "business_type": None,
        "capabilities": dict.fromkeys(capabilities, "inactive"),
        "charges_enabled": False,
        "controller": {"is_controller": True, "type": "application"},
        "country": country,
        "created": created_s,
        "default_currency": currency,
        "details_submitted": False,
        "email": email,
        "external_accounts": list_object(f"/v1/accounts/{account_id}/external_accounts"),
        "future_requirements": _requirements([], None),
        "metadata": dict(metadata or {}),
        "payouts_enabled": False,
        "requirements": _requirements(_DUE_AT_FIRST, "requirements.past_due"),
        "settings": {
            "bacs_debit_payments": {"display_name": None, "service_user_number": None},
            "branding": {
                "icon": None,
                "logo": None,
                "primary_color": None,
                "secondary_color": None,
            },
            "card_issuing": {"tos_acceptance": {"date": None, "ip": None}},
            "card_payments": {
                "decline_on": {"avs_failure": False, "cvc_failure": False},
                "statement_descriptor_prefix": None,
                "statement_descriptor_prefix_kana": None,
                "statement_descriptor_prefix_kanji": None,
            },
            "dashboard": {"display_name": None, "timezone": "Etc/UTC"},
            "invoices": {"default_account_tax_ids": None, "hosted_payment_method_save": None},
            "payments": {
                "statement_descriptor": None,
                "statement_descriptor_kana": None,
                "statement_descriptor_kanji": None,
            },
            "payouts": {
                "debit_negative_balances": False,
                "schedule": {"delay_days": 2, "interval": "manual"},
                "statement_descriptor": None,
            },
            "sepa_debit_payments": {},
        },
        "tos_acceptance": {"date": None, "ip": None, "user_agent": None},
        "type": account_type,
    }


def _requirements(due: list[str], disabled_reason: str | None) -> Json:
    return {
        "alternatives": [],
        "current_deadline": None,
        "currently_due": list(due),
        "disabled_reason": disabled_reason,
        "errors": [],
        "eventually_due": list(due),
        "past_due": list(due),
        "pending_verification": [],
    }


def account_standing(account: Json, *, enabled: bool) -> Json:
    """Return the attributes of an account that change as it becomes enabled, or is no more."""
    return {
        "capabilities": dict.fromkeys(account["capabilities"], "active" if enabled else "inactive"),
        "charges_enabled": enabled,
        "details_submitted": enabled or account["details_submitted"],
        "external_accounts": {
            **account["external_accounts"],
            "data": account["external_accounts"]["data"] or [_bank_account(account)],
        },
        "payouts_enabled": enabled,
        "requirements": _requirements([], None)
        if enabled
        else _requirements(["individual.verification.document"], "requirements.past_due"),
    }


def _bank_account(account: Json) -> Json:
    return {
        "id": stripe_id("ba"),
        "object": "bank_account",
        "account": account["id"],
        "account_holder_name": None,
        "account_holder_type": None,
        "account_type": None,
        "available_payout_methods": ["standard"],
        "bank_name": "SANDBOX BANK",
        "country": account["country"],
        "currency": account["default_currency"],
        "default_for_currency": True,
        "fingerprint": secrets.token_urlsafe(12),
        "last4": "6789",
        "metadata": {},
        "routing_number": "110000000",
        "status": "new",
    }


def account_link_object(url: str, *, created_s: int) -> Json:
    """Return the link to an account's onboarding."""
    return {
        "object": "account_link",
        "created": created_s,
        "expires_at": created_s + 300,
        "url": url,
    }


def transfer_object(
    transfer_id: str,
    *,
    amount_minor: int,
    currency: str,
    destination: str,
    created_s: int,
    description: str | None = None,
    transfer_group: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Json:
    """Return a transfer to a connected account of which nothing is reversed."""
    return {
        "id": transfer_id,
        "object": "transfer",
        "amount": amount_minor,
        "amount_reversed": 0,
        "balance_transaction": stripe_id("txn"),
        "created": created_s,
        "currency": currency,
        "description": description,
        "destination": destination,
        "destination_payment": stripe_id("py"),
        "livemode": False,
        "metadata": dict(metadata or {}),
        "reversals": list_object(f"/v1/transfers/{transfer_id}/reversals"),
        "reversed": False,
        "source_transaction": None,
        "source_type": "card",
        "transfer_group": transfer_group,
    }


def reversal_object(
    reversal_id: str,
    transfer: Json,
    *,
    amount_minor: int,
    created_s: int,
    metadata: Mapping[str, str] | None = None,
) -> Json:
    """Return the reversal of a transfer, or of a part of it."""
    return {
        "id": reversal_id,
        "object": "transfer_reversal",
        "amount": amount_minor,
        "balance_transaction": stripe_id("txn"),
        "created": created_s,
        "currency": transfer["currency"],
        "destination_payment_refund": stripe_id("pyr"),
        "metadata": dict(metadata or {}),
        "source_refund": None,
        "transfer": transfer["id"],
    }


def payout_object(
    payout_id: str,
    *,
    amount_minor: int,
    currency: str,
    destination: str,
    created_s: int,
    livemode: bool = False,
    description: str | None = None,
    statement_descriptor: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Json:
    """Return a payout that is pending."""
    return {
        "id": payout_id,
        "object": "payout",
        "amount": amount_minor,
        "application_fee": None,
        "application_fee_amount": None,
        "arrival_date": created_s + 2 * _DAY_S,
        "automatic": False,
        "balance_transaction": stripe_id("txn"),
        "created": created_s,
        "currency": currency,
        "description": description,
        "destination": destination,
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": livemode,
        "metadata": dict(metadata or {}),
        "method": "standard",
        "original_payout": None,
        "payout_method": None,
        "reconciliation_status": "not_applicable",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": statement_descriptor,
        "status": "pending",
        "trace_id": None,
        "type": "bank_account",
    }


def payout_standing(status: str) -> Json:
    """Return the attributes of a payout that change as it reaches ``status``."""
    changed: Json = {"status": status}
    if status in {"failed", "canceled"}:
        changed["failure_balance_transaction"] = stripe_id("txn")
    if status == "failed":
        changed["failure_code"] = "account_closed"
        changed["failure_message"] = "The bank account has been closed."
    return changed


def balance_object(balance_minor: Mapping[str, int]) -> Json:
    """Return the balance of an account, all of it available."""

    def lines(amounts: Mapping[str, int]) -> list[Json]:
        return [
            {"amount": amount, "currency": currency, "source_types": {"card": amount}}
            for currency, amount in amounts.items()
        ]

    return {
        "object": "balance",
        "available": lines(balance_minor),
        "livemode": False,
        "pending": lines(dict.fromkeys(balance_minor, 0)),
    }
