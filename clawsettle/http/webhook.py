"""``POST /v1/stripe/webhook``: from raw bytes to an answer Stripe can act on.

The order is fixed and each step is a door: secrets, signature over the raw bytes, JSON, envelope,
livemode, mapping. Nothing is stored, logged by name or asked of the database before the signature
holds. A success is answered only for what is committed.
Source: webhook-forwarding contract sections 3 to 9, 12 and 14.
"""

import secrets
import time
from collections import Counter
from datetime import UTC, datetime

import structlog
import tenacity
import trio
from attrs import define, field, frozen

from clawsettle.actors.delivery_recorder import DeliveryRecorder
from clawsettle.actors.webhook_intake import Receipt, WebhookIntake
from clawsettle.config import ForwardingSettings, StripeSettings
from clawsettle.domain.errors import ClawsettleError, ProviderError, StorageUnavailable
from clawsettle.domain.forwarding import ForwardingState, Standing
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.payout_news import read_account_news, read_news
from clawsettle.domain.stripe_events import (
    EventUnmappable,
    Mapped,
    StripeEvent,
    check_livemode,
    map_event,
    parse_event,
)
from clawsettle.domain.stripe_signature import verify_signature
from clawsettle.http.patience import Patience
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.delivery_log import DeliveryEntry
from clawsettle.storage.settlement_outbox import Delivery, KnownEvent

_log = structlog.get_logger(__name__)
_REPORT_EVERY_S = 10.0
_WATCH_S, _WATCH_MAX_S = 0.05, 0.5


@define(eq=False)
class RejectionTally:
    """Counts refused requests by code; tells the log now and then, never what they contained."""

    counts: Counter[str] = field(factory=Counter, init=False)
    _reported_at: float = field(default=-_REPORT_EVERY_S, init=False)

    def add(self, code: str) -> None:
        """Count one refusal."""
        self.counts[code] += 1
        if trio.current_time() - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = trio.current_time()
            _log.warning("webhooks_rejected", counts=dict(self.counts))


@frozen(eq=False)
class WebhookRoute:
    """The webhook's handler and what it needs."""

    intake: WebhookIntake
    recorder: DeliveryRecorder
    stripe: StripeSettings
    forwarding: ForwardingSettings
    patience: Patience
    rejected: RejectionTally = field(factory=RejectionTally)

    def route(self) -> Route:
        """Return the route with its description."""
        return Route(
            "POST",
            "/v1/stripe/webhook",
            self.handle,
            direct=True,
            summary="Take one Stripe event",
            description=(
                "Verifies the signature over the raw body, commits the event and, by default, "
                "attempts to forward its settlement before answering. Each event counts once."
            ),
            parameters=(
                Parameter("stripe-signature", "header", "Stripe's signature.", required=True),
            ),
            request_schema={"type": "object", "required": ["id", "type", "data"]},
            response_schema=_ANSWER_SCHEMA,
            errors=(
                "SIGNATURE_INVALID",
                "INVALID_REQUEST",
                "LIVEMODE_MISMATCH",
                "INVALID_EVENT_PAYLOAD",
                "LEDGER_INGEST_FAILED",
                "DEPENDENCY_NOT_CONFIGURED",
            ),
        )

    async def handle(self, request: Request) -> Reply:
        """Answer one delivery; see the module."""
        received_at = datetime.now(UTC)
        try:
            self._verify(request)
        except ClawsettleError as error:
            self.rejected.add(error.code)
            raise
        event: StripeEvent | None = None
        error_code: str | None = "UNKNOWN"
        try:
            event = parse_event(parse_json(request.body))
            reply = await self._take(event, request.body)
            error_code = None
        except ClawsettleError as error:
            error_code = error.code
            raise
        else:
            return reply
        finally:
            self._note(event, received_at, error_code)

    def _verify(self, request: Request) -> None:
        if not self.stripe.webhook_secrets:
            raise ClawsettleError(
                "no webhook signing secret is configured",
                code="DEPENDENCY_NOT_CONFIGURED",
                details={"field": "env.STRIPE_WEBHOOK_SIGNING_SECRET"},
            )
        verify_signature(
            request.headers.get("stripe-signature"),
            request.body,
            secrets=[secret.reveal() for secret in self.stripe.webhook_secrets],
            now_s=time.time(),
            tolerance_s=self.stripe.tolerance_s,
            future_skew_s=self.stripe.future_skew_s,
        )

    async def _take(self, event: StripeEvent, body: bytes) -> Reply:
        check_livemode(
            event,
            environment=self.stripe.environment,
            allow_testmode=self.stripe.allow_testmode_in_production,
        )
        receipt, standing = None, None
        with self.patience.bound(self.forwarding.answer_deadline_s):
            mapped, quarantined = await self._mapped(event)
            receipt = await self.intake.receive(
                Delivery(
                    event,
                    body,
                    mapped,
                    quarantined,
                    None if quarantined else read_news(event),
                    read_account_news(event),
                )
            )
            standing = receipt.standing
            if standing is not None and self.forwarding.acknowledge == "attempted":
                standing = await self._settled(event.event_id, receipt)
        if receipt is None:
            raise StorageUnavailable("the event was not recorded in time")
        return self._reply(event, receipt, standing)

    async def _mapped(self, event: StripeEvent) -> tuple[Mapped | None, bool]:
        """Return the settlement of an event, and whether it is put aside instead.

        A replay of a recorded event is answered as it was, whatever it maps to now.
        """
        try:
            return map_event(event, currencies=self.stripe.currencies), False
        except EventUnmappable:
            if self.stripe.unmappable == "quarantine":
                return None, True
            if await self.intake.known(event.event_id) is None:
                raise
            return None, False

    async def _settled(self, event_id: str, receipt: Receipt) -> Standing | None:
        """Wait for the attempt under way here, on another daemon, or about to begin."""
        if receipt.attempt is not None:
            settled = await receipt.attempt.wait()
            if settled is not None:
                return settled
        return await self._watch(event_id) if receipt.pending else receipt.standing

    async def _watch(self, event_id: str) -> Standing | None:
        """Look at a row that somebody works on, or is about to, until nobody does."""
        known: KnownEvent | None = await tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(
                lambda known: known is not None and (known.leased or known.due)
            ),
            wait=tenacity.wait_exponential(multiplier=_WATCH_S, max=_WATCH_MAX_S),
            sleep=trio.sleep,
        )(self.intake.known, event_id)
        return None if known is None else known.standing

    def _reply(self, event: StripeEvent, receipt: Receipt, standing: Standing | None) -> Reply:
        waits_for_ledger = self.forwarding.acknowledge == "attempted"
        # Stripe is asked to come back only for what waits: redelivery helps no dead letter.
        if waits_for_ledger and standing is not None and standing.due_at is not None:
            raise _not_forwarded(event, standing.due_at, standing.ledger_status)
        body: dict[str, object] = {
            "ok": True,
            "deduped": receipt.deduped,
            "event_id": event.event_id,
            "event_type": receipt.event_type,
            "idempotency_key": event.idempotency_key,
            "forwarded_to_ledger": False,
        }
        if standing is not None:
            body["forwarded_to_ledger"] = standing.state is ForwardingState.FORWARDED
            if standing.ledger_status is not None:
                body["ledger_status"] = standing.ledger_status
            if standing.settlement_id is not None:
                body["settlement_id"] = standing.settlement_id
            if standing.due_at is not None:
                body["retry_scheduled"] = True
                body["next_retry_at"] = iso_instant(standing.due_at)
        return Reply.json(200, body)

    def _note(
        self, event: StripeEvent | None, received_at: datetime, error_code: str | None
    ) -> None:
        self.recorder.note(
            DeliveryEntry(
                delivery_id=f"dlv_{secrets.token_hex(16)}",
                event_type=event.event_type if event else "unknown",
                received_at=received_at,
                processed_at=datetime.now(UTC),
                error_code=error_code,
                idempotency_key=event.idempotency_key if event else None,
            )
        )


def _not_forwarded(
    event: StripeEvent, due_at: datetime, ledger_status: int | None
) -> ProviderError:
    details: dict[str, object] = {"event_id": event.event_id}
    if ledger_status is not None:
        details["ledger_status"] = ledger_status
    details |= {"retry_scheduled": True, "next_retry_at": iso_instant(due_at)}
    return ProviderError(
        "the event is recorded but has not reached the ledger",
        code="LEDGER_INGEST_FAILED",
        details=details,
    )


_ANSWER_SCHEMA = {
    "type": "object",
    "required": [
        "ok",
        "deduped",
        "event_id",
        "event_type",
        "idempotency_key",
        "forwarded_to_ledger",
    ],
    "properties": {
        "ok": {"const": True},
        "deduped": {"type": "boolean", "description": "False for the delivery that counted."},
        "event_id": {"type": "string"},
        "event_type": {"type": "string"},
        "idempotency_key": {"type": "string", "examples": ["stripe:event:evt_1"]},
        "forwarded_to_ledger": {"type": "boolean"},
        "ledger_status": {"type": "integer", "description": "HTTP status of the ledger's answer."},
        "settlement_id": {"type": "string"},
        "retry_scheduled": {"const": True},
        "next_retry_at": {"type": "string", "format": "date-time"},
    },
}
