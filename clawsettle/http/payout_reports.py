"""``GET /v1/reconciliation/payouts/daily``: the payouts of a day, however many they are.

Source: payouts contract section 8; 11 (13 to 15).
"""

import hashlib
from datetime import datetime

import trio
from attrs import field, frozen

from clawsettle.actors.payout_comparer import PayoutComparer
from clawsettle.config import AdminSettings
from clawsettle.domain.comparison_report import FIELDS as COMPARISON_FIELDS
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.payout_comparison import MismatchKind, RecordName
from clawsettle.domain.payout_reports import FIELDS, ReportCut, ReportFormat, read_cut, read_format
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.routing import CSV_TYPE, Parameter, Reply, Request, Route
from clawsettle.storage.payout_reports import PayoutReports
from clawsettle.storage.report_files import ReportFile

AT_ONCE_MAX = 2
"""How many reports are read at once, the rest waits: each takes a connection of the pool."""

_TEXT = {"type": "string"}
_DIGITS = {"type": "string", "pattern": "^[0-9]+$"}
_DAILY_SCHEMA = {
    "type": "object",
    "required": ["date", "generated_at", "totals", "rows", "artifact_sha256"],
    "properties": {
        "date": _TEXT,
        "generated_at": _TEXT,
        "as_of": {"type": "string", "description": "The cut, when one was asked for."},
        "totals": {
            "type": "object",
            "required": ["payout_count", "amount_minor_total", "amount_minor_by_status"],
            "properties": {
                "payout_count": {"type": "integer"},
                "amount_minor_total": _DIGITS,
                "amount_minor_by_status": {"type": "object", "additionalProperties": _DIGITS},
            },
        },
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    "payout_id",
                    "account_id",
                    "amount_minor",
                    "currency",
                    "status",
                    "created_at",
                ],
                "properties": dict.fromkeys(FIELDS, _TEXT),
            },
        },
        "artifact_sha256": _TEXT,
    },
}


_INPUT = {
    "type": "object",
    "required": ["count", "sha256"],
    "properties": {"count": {"type": "integer"}, "sha256": _TEXT},
}
_COMPARISON_SCHEMA = {
    "type": "object",
    "required": ["date", "as_of", "inputs", "totals", "mismatches", "artifact_sha256"],
    "properties": {
        "date": _TEXT,
        "as_of": _TEXT,
        "inputs": {
            "type": "object",
            "required": list(RecordName),
            "properties": {
                "ours": _INPUT,
                "ledger": _INPUT,
                "provider": {"oneOf": [_INPUT, {"type": "null"}]},
            },
        },
        "totals": {"type": "object", "description": "Count and amounts of each kind that occurs."},
        "mismatches": {
            "type": "array",
            "items": {
                "type": "object",
                "required": list(COMPARISON_FIELDS),
                "properties": {
                    **dict.fromkeys(COMPARISON_FIELDS, _TEXT),
                    "kind": {"enum": list(MismatchKind)},
                    "record": {"enum": list(RecordName)},
                    "amount_minor": _DIGITS,
                    "age_s": {"type": "integer", "description": "Seconds at the cut."},
                },
            },
        },
        "artifact_sha256": _TEXT,
    },
}


@frozen(eq=False)
class PayoutReportRoutes:
    """The handlers and what they need."""

    reports: PayoutReports
    comparer: PayoutComparer
    admin: AdminSettings
    _at_once: trio.CapacityLimiter = field(
        factory=lambda: trio.CapacityLimiter(AT_ONCE_MAX), init=False
    )

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [
            Route(
                "GET",
                "/v1/reconciliation/payouts/daily",
                self.daily,
                "The payouts created on a day",
                description=(
                    "With `as_of`, as they stood then: the same bytes whenever it is asked. "
                    "`artifact_sha256` is of `date`, `rows` and `totals` as canonical JSON. As CSV "
                    "it is the header `x-clawsettle-report-sha256`, and `x-clawsettle-csv-sha256` "
                    "is of the bytes that are sent."
                ),
                auth="settleAdmin",
                parameters=CUT_PARAMETERS,
                response_schema=_DAILY_SCHEMA,
                errors=("INVALID_REQUEST", "UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED"),
            ),
            Route(
                "GET",
                "/v1/reconciliation/payouts/compare",
                self.compare,
                "A day's payouts compared with the ledger's events and the provider's objects",
                description=(
                    "Lists what is missing, late or doubled, and what differs in amount or state. "
                    "The day's payouts are those created, submitted, paid or failed on it. Without "
                    "`as_of` they are compared as of a minute ago. `inputs` has a digest of each "
                    "record; `provider` is null where the provider keeps no objects."
                ),
                auth="settleAdmin",
                parameters=CUT_PARAMETERS,
                response_schema=_COMPARISON_SCHEMA,
                errors=(
                    "INVALID_REQUEST",
                    "UNAUTHORIZED",
                    "DEPENDENCY_NOT_CONFIGURED",
                    "LEDGER_INGEST_FAILED",
                    "STRIPE_API_ERROR",
                ),
            ),
        ]

    async def daily(self, request: Request) -> Reply:
        """Answer with the report of a day."""
        written, cut = read_asked(request, self.admin)
        async with self._at_once:
            report = await self.reports.daily(cut, written)
        return report_reply(report, cut.as_of)

    async def compare(self, request: Request) -> Reply:
        """Answer with the comparison of a day's three records."""
        written, cut = read_asked(request, self.admin)
        await self.reports.read_at(cut)
        async with self._at_once:
            compared = await self.comparer.compare(cut)
        if written is ReportFormat.JSON:
            return Reply.json(200, compared.view())
        text = compared.csv().encode()
        headers = {
            "x-clawsettle-report-sha256": compared.sha256,
            "x-clawsettle-csv-sha256": hashlib.sha256(text).hexdigest(),
            "x-clawsettle-as-of": iso_instant(compared.as_of),
        }
        return Reply(200, text, CSV_TYPE, headers)


CUT_PARAMETERS = (
    Parameter("date", "query", "the day in UTC, such as 2026-02-11", required=True),
    Parameter("as_of", "query", "an instant of ISO 8601 with its zone, a minute ago at least"),
    Parameter("format", "query", "json (default) or csv"),
)


def read_asked(request: Request, admin: AdminSettings) -> tuple[ReportFormat, ReportCut]:
    """Return what an admin asks for; the format is looked at first.

    Raises: CallerError INVALID_REQUEST with ``details.field``; as ``require_settle_admin``.
    """
    require_settle_admin(request, admin.keys)
    written = read_format(request.query.get("format"))
    return written, read_cut(request.query.get("date"), request.query.get("as_of"))


def report_reply(report: ReportFile, as_of: datetime | None = None) -> Reply:
    """Return a report as it is sent: what CSV has no place for is in headers."""
    headers, content_type = {}, None
    if report.csv_sha256 is not None:
        content_type = CSV_TYPE
        headers = {
            "x-clawsettle-report-sha256": report.sha256,
            "x-clawsettle-csv-sha256": report.csv_sha256,
        }
        if as_of is not None:
            headers["x-clawsettle-as-of"] = iso_instant(as_of)
    return Reply(200, report.head, content_type, headers, report.file, report.file_bytes)
