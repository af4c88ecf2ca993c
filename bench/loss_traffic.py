"""What a daemon is told of losses under load: events that five targets must act on."""

import json

from attrs import frozen

from clawsettle.domain.canonical import sha256_hex


@frozen
class LossTraffic:
    """Losses of a cent under new keys, each with an escrow and a bounty of its own.

    ``series`` tells the keys of a run from those of any other.
    """

    series: str

    def order(self, number: int, account_did: str) -> tuple[str, bytes]:
        """Return an event's idempotency key, and its body."""
        # No order shows in it, as in the ids of callers.
        serial = sha256_hex(f"{self.series}:{number}")[:24]
        body = {
            "source_service": "stripe",
            "source_event_id": f"evt_{serial}",
            "account_did": account_did,
            "amount_minor": "1",
            "currency": "USD",
            "reason_code": "chargeback",
            "severity": "high",
            "occurred_at": "2026-11-24T12:00:00.000Z",
            "metadata": {
                "escrow_id": f"esc_{serial}",
                "bounty_id": f"bty_{serial}",
                "dispute_id": f"dp_{serial}",
            },
        }
        return f"stripe:dispute:{serial}", json.dumps(body).encode()
