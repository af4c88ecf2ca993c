"""``GET /v1/netting/runs/{id}/report``: a run's entries as they are, or as they were at its end.

Source: netting contract section 7; 10 (9, 21).
"""

import trio
from attrs import field, frozen

from clawsettle.actors.netting_reporter import NettingReporter
from clawsettle.config import AdminSettings
from clawsettle.domain.errors import CallerError
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.domain.payout_reports import ReportFormat, read_format
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.netting_schemas import COUNT, SIGNED
from clawsettle.http.payout_query import Whole, bad_parameter
from clawsettle.http.payout_reports import AT_ONCE_MAX, report_reply
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.schemas import INSTANT, TEXT, listed, shape

_VERSION = Whole("version", 0, 1, 2**31 - 1)
_SCHEMA = shape(
    {
        "run_id": TEXT,
        "generated_at": INSTANT,
        "summary": shape(
            {
                "status": {"enum": list(RunStatus)},
                "currency": TEXT,
                "source_clearing_domain": TEXT,
                "target_clearing_domain": TEXT,
                "candidate_count": COUNT,
                "applied_count": COUNT,
                "failed_count": COUNT,
                "total_amount_minor": SIGNED,
            }
        ),
        "version_count": {**COUNT, "description": "How often the run has ended so far."},
        "conservation": shape(
            {
                "entries_minor": SIGNED,
                "payouts_minor": SIGNED,
                "holds": {
                    "type": ["boolean", "null"],
                    "description": "Whether all three agree; null when the ledger did not answer.",
                },
            },
            {"ledger_minor": SIGNED, "ledger_event_count": COUNT},
        ),
        "conservation_sha256": TEXT,
        "entries": listed(
            shape(
                {
                    "entry_id": TEXT,
                    "connect_account_id": TEXT,
                    "payout_count": COUNT,
                    "amount_minor": SIGNED,
                    "status": {"enum": [one for one in EntryStatus if one is one.wire]},
                    "payout_ids": listed(TEXT),
                },
                {
                    "ledger_event_id": TEXT,
                    "last_error_code": TEXT,
                    "last_error_message": TEXT,
                    "compensated_payout_ids": listed(TEXT),
                },
            )
        ),
        "artifact_sha256": TEXT,
    }
)


@frozen(eq=False)
class NettingReportRoutes:
    """The handler and what it needs."""

    reporter: NettingReporter
    admin: AdminSettings
    _at_once: trio.CapacityLimiter = field(
        factory=lambda: trio.CapacityLimiter(AT_ONCE_MAX), init=False
    )

    def routes(self) -> list[Route]:
        """Return the route with its description."""
        return [
            Route(
                "GET",
                "/v1/netting/runs/{id}/report",
                self.report,
                "The entries of a netting run, and the proof of what it has moved",
                description=(
                    "`artifact_sha256` is of `entries`, `run_id` and `summary` as canonical JSON. "
                    "As CSV it is the header `x-clawsettle-report-sha256`, and "
                    "`x-clawsettle-csv-sha256` is of the bytes that are sent. `conservation` has "
                    "what the applied entries have moved, by the entries themselves, by their "
                    "payouts, and by the ledger's events. With `version` the answer is the very "
                    "text that the hash is of, as it was when the run had ended so often."
                ),
                auth="settleAdmin",
                parameters=(
                    Parameter("format", "query", "json (default) or csv"),
                    Parameter("version", "query", "1 to version_count; as json only"),
                ),
                response_schema=_SCHEMA,
                errors=(
                    "INVALID_REQUEST",
                    "UNAUTHORIZED",
                    "NOT_FOUND",
                    "DEPENDENCY_NOT_CONFIGURED",
                ),
            ),
        ]

    async def report(self, request: Request) -> Reply:
        """Answer with the report of a run."""
        require_settle_admin(request, self.admin.keys)
        run_id, number = request.params["id"], _VERSION.read(request)
        async with self._at_once:
            if number:
                return await self._version(run_id, number, request)
            try:
                written = read_format(request.query.get("format"))
            except CallerError:
                # That there is no such run, or that its record was changed, is said first.
                await self.reporter.reports.verify(run_id)
                raise
            return report_reply(await self.reporter.report(run_id, written))

    async def _version(self, run_id: str, number: int, request: Request) -> Reply:
        if read_format(request.query.get("format")) is not ReportFormat.JSON:
            raise bad_parameter("format", "must be json for a version")
        report = await self.reporter.reports.version(run_id, number)
        headers = {"x-clawsettle-report-sha256": report.sha256}
        return Reply(200, b"", None, headers, report.file, report.file_bytes)
