"""Makes the reports of netting runs, with the proof that no money was made or lost.

Owns nothing and changes nothing. Guarantees: the run, its entries and its payouts are those of one
instant; the ledger is asked afterwards, for the entries that had been applied by then. A report is
made all the same when the ledger does not answer: it says that nothing is proved.
Source: netting contract section 7; the proof is new.
"""

from contextlib import ExitStack

import attrs
import structlog
from attrs import frozen

from clawsettle.clients.ledger import Ledger
from clawsettle.domain.ledger_orders import LedgerError
from clawsettle.domain.netting_conservation import LedgerTally, conservation_sha256, prove
from clawsettle.domain.netting_reports import sent_head
from clawsettle.domain.payout_reports import ReportFormat
from clawsettle.storage.netting_reports import NettingReports, ReadReport
from clawsettle.storage.report_files import ReportFile

PAGE = 500
_log = structlog.get_logger(__name__)


@frozen
class NettingReporter:
    """See the module."""

    reports: NettingReports
    ledger: Ledger

    async def report(self, run_id: str, written: ReportFormat) -> ReportFile:
        """Return the report of a run as it stands; CSV has no place for the proof.

        Raises: NotFoundError, ClawsettleError INTERNAL_ERROR as ``NettingReports.read``;
        StorageUnavailable or StorageError.
        """
        report = await self.reports.read(run_id, written)
        if written is ReportFormat.CSV:
            return report.file
        with ExitStack() as stack:
            stack.callback(report.file.file.close)
            conservation = prove(report.sums, await self._ask_ledger(report))
            stack.pop_all()
        sha256 = report.file.sha256
        proof = {
            "version_count": report.version_count,
            "conservation": conservation.view(),
            "conservation_sha256": conservation_sha256(sha256, conservation),
        }
        head = sent_head(report.run, report.generated_at, proof)
        return attrs.evolve(report.file, head=head.encode())

    async def _ask_ledger(self, report: ReadReport) -> LedgerTally | None:
        """Return what the ledger says of the entries; None when it does not say it whole."""
        run_id, moved_ids, tally = report.run.run_id, report.moved_ids, LedgerTally()
        try:
            for place in range(0, len(moved_ids), PAGE):
                entries = await self.reports.entries(run_id, moved_ids[place : place + PAGE])
                keys = [entry.idempotency_key for entry in entries]
                tally.add(report.run, entries, await self.ledger.events_by_key(keys))
        except LedgerError as error:
            _log.warning("netting_report_unproved", run_id=run_id, error=error.message)
            return None
        return tally
