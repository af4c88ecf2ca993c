"""What a ledger is asked under load: whole requests, as a client of its port would send them."""

from hashlib import sha256
from typing import Literal

from attrs import field, frozen

from clawsettle.sandbox.stripe_objects import stripe_id

TRANSFERS, APPLY, RELEASE = (
    "/v1/transfers",
    "/v1/risk/holds/apply",
    "/v1/risk/holds/release-by-source",
)
_STRIDES = 7919, 104_729  # of clients and of their turns, so that both spread over the accounts

Kind = Literal["transfers", "holds"]
KINDS: tuple[Kind, ...] = ("transfers", "holds")


@frozen
class LedgerTraffic:
    """Transfers of a cent, or holds of one and their releases by turns, all under new keys.

    The money is that of all accounts in a scattered order, or if ``hot`` that of the first one;
    what is transferred goes to all of them. ``series`` tells the keys of a run from those of
    any other; it is made where the traffic is.
    """

    kind: Kind
    account_count: int
    hot: bool
    series: str = field(factory=lambda: stripe_id("x"), init=False)

    def request(self, client: int, turn: int) -> tuple[str, dict[str, object]]:
        """Return the path and the body of a client's request; each turn waits for the last."""
        if self.kind == "transfers":
            return TRANSFERS, self._transfer(client, turn)
        apply, release = self._hold(client, turn // 2)
        return (RELEASE, release) if turn % 2 else (APPLY, apply)

    def _transfer(self, client: int, turn: int) -> dict[str, object]:
        place = self._place(client, turn)
        payer = 0 if self.hot else place
        payee = place if place != payer else (place + 1) % self.account_count
        return {
            "idempotency_key": f"netting:entry:{self._serial(client, turn)}",
            "currency": "USD",
            "from": {"account": did(payer), "bucket": "A"},
            "to": {"account": did(payee), "bucket": "A"},
            "amount_minor": "1",
        }

    def _hold(self, client: int, number: int) -> tuple[dict[str, object], dict[str, object]]:
        source = f"lse_{self._serial(client, number)}"
        apply: dict[str, object] = {
            "idempotency_key": f"loss-event:{source}:ledger",
            "source_loss_event_id": source,
            "account": did(0 if self.hot else self._place(client, number)),
            "amount_minor": "1",
            "currency": "USD",
            "reason": "chargeback",
        }
        release: dict[str, object] = {
            "idempotency_key": f"loss-event:resolve:{source}:ledger",
            "source_loss_event_id": source,
            "reason": "chargeback withdrawn",
        }
        return apply, release

    def _place(self, client: int, number: int) -> int:
        return (client * _STRIDES[0] + number * _STRIDES[1]) % self.account_count

    def _serial(self, client: int, number: int) -> str:
        """Return what no other request has and no order shows, as in the keys of callers."""
        return sha256(f"{self.series}:{client}:{number}".encode()).hexdigest()[:32]


def did(number: int) -> str:
    """Return the DID of an account, as long as that of a real key."""
    return f"did:key:z6Mk{number:044d}"
