"""The transfers of a payout in the ledger: lock, finalisation, rollback, and return.

Each has its own key, and all take the amount, the currency and the accounts from the payout as it
was created, so that a repetition is the same order whatever the settings say by then.
Source: payouts contract section 4; 11 (10, 23). The return is new.
"""

from collections.abc import Mapping

from clawsettle.domain.ledger_orders import TransferOrder
from clawsettle.domain.payouts import Payout, PayoutStep
from clawsettle.domain.transfers import Side

STAGES: Mapping[PayoutStep, str] = {
    PayoutStep.LOCK: "lock",
    PayoutStep.FINALIZE: "finalize_paid",
    PayoutStep.ROLL_BACK: "rollback_failed",
    PayoutStep.RETURN: "return_failed",
}
"""The steps that are transfers, and what their metadata calls them."""


def transfer_of(payout: Payout, step: PayoutStep) -> TransferOrder:
    """Return the order of one of a payout's transfers, one of ``STAGES``."""
    available, held = Side.of(payout.account_did, "A"), Side.of(payout.account_did, "H")
    clearing = Side.of(f"clearing:{payout.clearing_domain}", "A")
    key, source, destination = {
        PayoutStep.LOCK: (payout.lock_key, available, held),
        PayoutStep.FINALIZE: (payout.finalize_key, held, clearing),
        PayoutStep.ROLL_BACK: (payout.rollback_key, held, available),
        PayoutStep.RETURN: (payout.return_key, clearing, available),
    }[step]
    metadata: dict[str, object] = {"payout_id": payout.payout_id, "stage": STAGES[step]}
    if payout.provider_source is not None:
        metadata["source"] = payout.provider_source
    return TransferOrder(key, source, destination, payout.amount_minor, payout.currency, metadata)
