"""The parts of a daemon that tell the targets of loss events, put together."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from attrs import frozen

from clawsettle.actors.circuit_breaker import CircuitBreaker
from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.actors.loss_fanout import LossFanout, finishing, looking
from clawsettle.actors.loss_lane import LossLane, Noted
from clawsettle.actors.loss_watch import LossWatch
from clawsettle.actors.risk_ledger import EmbeddedRiskLedger
from clawsettle.clients.risk_targets import HttpRiskLedger, HttpRiskTarget, RiskTarget
from clawsettle.config import Settings, TargetAddress, target_addresses
from clawsettle.domain.forwarding import RetryPolicy
from clawsettle.domain.loss_calls import logged_key
from clawsettle.domain.loss_events import DeliveryState, Target
from clawsettle.domain.loss_transitions import AttemptResult
from clawsettle.storage.bridge import Database
from clawsettle.storage.delivery_log import DeliveryEntry
from clawsettle.storage.ledger_reader import LedgerReader
from clawsettle.storage.loss_deliveries import LeasedDelivery, LossDeliveries
from clawsettle.storage.loss_events import LossEvents

BATCH_MAX = 256
_ATTEMPTS_MAX = 100_000


@frozen(eq=False)
class LossParts:
    """What tells targets in a daemon; ``close`` ends the connections to them."""

    fanout: LossFanout
    watch: LossWatch
    close: Callable[[], None]


def assemble_losses(
    settings: Settings,
    database: Database,
    keeper: LedgerKeeper | None,
    note: Callable[[DeliveryEntry], None],
) -> LossParts:
    """Put the parts together; the ledger's target is ``keeper`` where there is one.

    ``note`` is told of each attempt, for the delivery log.
    """
    configured = settings.loss_events
    deliveries = LossDeliveries(database, configured.lease_s)
    finished = finishing(deliveries, BATCH_MAX, _ATTEMPTS_MAX)
    escrows = looking(deliveries, BATCH_MAX, _ATTEMPTS_MAX)
    over_http = {
        target: _over_http(settings, address)
        for target, address in target_addresses(settings).items()
    }
    clients: dict[Target, RiskTarget] = dict(over_http)
    if Target.LEDGER in over_http:
        clients[Target.LEDGER] = HttpRiskLedger(over_http[Target.LEDGER])
    elif keeper is not None:
        clients[Target.LEDGER] = EmbeddedRiskLedger(keeper, LedgerReader(database))
    lanes = {
        target: LossLane(
            target,
            client,
            deliveries,
            finished,
            escrows,
            RetryPolicy(
                configured.retry_base_s,
                configured.retry_max_s,
                configured.attempts_max,
                configured.age_max_s,
            ),
            CircuitBreaker(configured.breaker_failures_max, configured.breaker_open_s),
            configured.in_flight_max,
            configured.attempt_timeout_s,
            configured.poll_s,
            _noting(note),
        )
        for target, client in clients.items()
    }
    fanout = LossFanout(
        LossEvents(database, configured.lease_s),
        deliveries,
        finished,
        escrows,
        lanes,
        BATCH_MAX,
        configured.mailbox_max,
    )

    def close() -> None:
        for client in over_http.values():
            client.close()

    return LossParts(fanout, LossWatch(deliveries, clients.keys(), configured.alert_after_s), close)


def _over_http(settings: Settings, address: TargetAddress) -> HttpRiskTarget:
    configured = settings.loss_events
    return HttpRiskTarget(
        address.base_url,
        address.key.reveal(),
        configured.connect_timeout_s,
        configured.attempt_timeout_s,
        configured.in_flight_max,
    )


def _noting(note: Callable[[DeliveryEntry], None]) -> Noted:
    def noted(leased: LeasedDelivery, result: AttemptResult, began_at: datetime) -> None:
        delivery = leased.delivery
        is_success = result.state in {DeliveryState.FORWARDED, DeliveryState.NOT_APPLICABLE}
        note(
            DeliveryEntry(
                delivery_id=f"dlv_{secrets.token_hex(16)}",
                event_type=f"loss:{delivery.operation}:{delivery.target}",
                received_at=began_at,
                processed_at=datetime.now(UTC),
                error_code=None if is_success else result.error_code,
                idempotency_key=logged_key(
                    delivery.loss_event_id, delivery.operation, delivery.target
                ),
                source=f"loss_{delivery.operation}",
            )
        )

    return noted
