"""``clawsettle send``: one signed Stripe event, its answer, and what the ledger says afterwards."""

import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
from attrs import frozen

from clawsettle.daemon.answers import answered, json_object
from clawsettle.daemon.state_dir import DaemonFacts
from clawsettle.domain.errors import ConfigError, ProviderError
from clawsettle.sandbox.stripe_events import (
    EventPlan,
    object_prefix,
    signature_header,
    stripe_event,
)
from clawsettle.sandbox.stripe_objects import stripe_id

_TIMEOUT_S = 30.0


@frozen
class SendOptions:
    """What to send, and where; None means a fresh id or what the state directory says."""

    event_type: str
    amount_minor: int
    currency: str
    did: str
    account_id: str | None
    event_id: str | None
    object_id: str | None
    livemode: bool | None


@frozen
class SendReport:
    """What was sent, the answer, and the account before and after (None: no ledger asked)."""

    event: Mapping[str, object]
    status: int
    answer: Mapping[str, object]
    account_before: Mapping[str, Any] | None
    account_after: Mapping[str, Any] | None


def send(facts: DaemonFacts, options: SendOptions) -> SendReport:
    """Open the account, send the event, and look at the account before and after.

    Raises: ConfigError without a signing secret, ProviderError when somebody does not answer.
    """
    if facts.webhook_secret is None:
        raise ConfigError(
            [
                (
                    "no signing secret: start `clawsettle dev` here, name its --state-dir, or set "
                    "STRIPE_WEBHOOK_SIGNING_SECRET"
                )
            ]
        )
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
        ledger = _LedgerWindow(client, facts)
        account_id = options.account_id or ledger.opened(options.did)
        event = _event(facts, options, account_id)
        before = ledger.account(account_id)
        body = json.dumps(event, indent=2).encode()
        header = signature_header(body, secret=facts.webhook_secret, timestamp_s=int(time.time()))
        response = answered(
            facts.base_url,
            lambda: client.post(
                f"{facts.base_url}/v1/stripe/webhook",
                content=body,
                headers={"stripe-signature": header, "content-type": "application/json"},
            ),
        )
        return SendReport(
            event, response.status_code, json_object(response), before, ledger.account(account_id)
        )


@frozen
class _LedgerWindow:
    """What ``send`` asks the ledger; everything is None when there is no ledger key to ask with."""

    client: httpx.Client
    facts: DaemonFacts

    def opened(self, did: str) -> str:
        """Open the DID's account, or find it."""
        if self.facts.ledger_base_url is None or self.facts.ledger_admin_key is None:
            raise ConfigError(
                ["no ledger key to open an account with: give --account-id or LEDGER_ADMIN_KEY"]
            )
        answer = self._ask("POST", "/accounts", {"did": did})
        if answer.status_code != httpx.codes.CREATED:
            raise ProviderError(f"the ledger opened no account: {answer.text[:200]}")
        return str(json_object(answer)["id"])

    def account(self, account_id: str) -> Mapping[str, Any] | None:
        """Return the account, or None when the ledger has none or cannot be asked."""
        if self.facts.ledger_base_url is None or self.facts.ledger_admin_key is None:
            return None
        try:
            answer = self._ask("GET", f"/accounts/id/{account_id}", None)
        except ProviderError:
            return None
        return json_object(answer) if answer.status_code == httpx.codes.OK else None

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        url = f"{self.facts.ledger_base_url}{path}"
        headers = {"authorization": f"Bearer {self.facts.ledger_admin_key}"}
        return answered(url, lambda: self.client.request(method, url, json=body, headers=headers))


def _event(facts: DaemonFacts, options: SendOptions, account_id: str) -> dict[str, object]:
    livemode = options.livemode
    if livemode is None:
        livemode = facts.environment == "production"
    return stripe_event(
        EventPlan(
            event_type=options.event_type,
            account_id=account_id,
            amount_minor=options.amount_minor,
            currency=options.currency,
            livemode=livemode,
            created_s=int(time.time()),
            event_id=options.event_id or stripe_id("evt"),
            object_id=options.object_id or stripe_id(object_prefix(options.event_type)),
        )
    )
