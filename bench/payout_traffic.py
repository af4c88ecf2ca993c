"""What payouts are asked under load: orders of them, and the provider's word that they are paid."""

import json
import time
from typing import Literal

from attrs import frozen

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.payout_requests import PayoutRequest
from clawsettle.sandbox.simulated_provider import connect_account_id
from clawsettle.sandbox.stripe_objects import event_object, payout_object, payout_standing

_EVENT_ID, _PAYOUT_ID = "evt_" + "0" * 24, "pout_" + "0" * 28
_OBJECT_ID, _CONNECT_ID = "po_" + "0" * 24, "acct_" + "0" * 24
_ACCOUNT_ID = "acc_" + "0" * 8

Kind = Literal["create", "paid"]


@frozen
class PayoutTraffic:
    """Payouts of a cent under new keys, or the events that say that those of a series are paid.

    A series is created first; its payouts have the ids that follow from their keys.
    """

    kind: Kind
    series: str

    def order(self, number: int, account_id: str) -> tuple[str, bytes]:
        """Return an order's idempotency key, and its body."""
        body = {
            "account_id": account_id,
            "amount_minor": "1",
            "currency": "USD",
            "metadata": {"invoice": f"inv_{number}"},
        }
        return self._key(number), json.dumps(body).encode()

    def event(self, number: int, account_id: str, template: str) -> bytes:
        """Return the event that a payout is paid."""
        payout_id = PayoutRequest(self._key(number), account_id, 1, "USD", None).payout_id
        connect_id = connect_account_id(account_id)
        # The simulated provider's recipe, which is the contract's.
        object_id = f"po_{sha256_hex(f'po:{payout_id}:{connect_id}')[:24]}"
        return (
            template.replace(_EVENT_ID, f"evt_{sha256_hex(payout_id)[:24]}")
            .replace(_PAYOUT_ID, payout_id)
            .replace(_OBJECT_ID, object_id)
            .replace(_CONNECT_ID, connect_id)
            .replace(_ACCOUNT_ID, account_id)
            .encode()
        )

    def _key(self, number: int) -> str:
        """Return what no other order has and no order shows, as in the keys of callers."""
        return f"order:{sha256_hex(f'{self.series}:{number}')[:32]}"


def paid_template() -> str:
    """Return an event that a payout is paid, with ids to be replaced."""
    now_s = int(time.time())
    payout = payout_object(
        _OBJECT_ID,
        amount_minor=1,
        currency="usd",
        destination="ba_" + "0" * 24,
        created_s=now_s,
        metadata={"payout_id": _PAYOUT_ID, "account_id": _ACCOUNT_ID},
    )
    event = event_object(
        "payout.paid",
        {**payout, **payout_standing("paid")},
        event_id=_EVENT_ID,
        created_s=now_s,
        account=_CONNECT_ID,
    )
    return json.dumps(event)
