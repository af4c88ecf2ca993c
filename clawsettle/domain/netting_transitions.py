"""What a netting run and its entries may become.

``RUN_TRANSITIONS`` and ``ENTRY_TRANSITIONS`` are the rule; the database's CHECK constraints are
its second copy. The ledger is asked for an entry's transfer only while the entry is ``applying``,
so whatever is found there after a crash may have moved, and is looked up before anything else is
done about it.

Everything here is pure. ``apply_entry`` and ``apply_run`` take what happened and return the row as
it is afterwards; it is stored in one commit with its audit row, under the run's lease.
Source: netting contract section 6; 10 (3, 5, 6, 9, 17, 20).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs
from attrs import frozen

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus

ERROR_MESSAGE_MAX = 500
QUIET = timedelta(minutes=2)
"""How long a request that was never answered may still be under way to the ledger."""

E = EntryStatus
R = RunStatus


@frozen
class Claimed:
    """The entry's sums and its payouts are as they must be, and the ledger is about to be asked."""


@frozen
class Withheld:
    """The entry must not move as it is; somebody has to look at it."""

    code: str
    message: str


@frozen
class Moved:
    """The ledger has applied the transfer, in this event; None when there was nothing to move."""

    ledger_event_id: str | None


@frozen
class Refused:
    """The ledger has said no, and has moved nothing."""

    code: str
    message: str


@frozen
class Unanswered:
    """Whether the ledger has applied the transfer is not known.

    ``is_over`` when it has answered all the same, so that the request is not under way any more.
    """

    code: str
    message: str
    is_over: bool


@frozen
class Orphaned:
    """Whoever was asking the ledger has let its lease run out."""


@frozen
class Resumed:
    """It is to be tried again; an earlier try is looked up first."""


@frozen
class GivenBack:
    """Nothing has moved and nothing will: the entry's payouts are free for another run."""

    code: str | None = None
    message: str | None = None


EntryEvent = Claimed | Withheld | Moved | Refused | Unanswered | Orphaned | Resumed | GivenBack

ENTRY_TRANSITIONS: Mapping[EntryStatus, Mapping[type[object], EntryStatus]] = {
    E.PENDING: {
        Claimed: E.APPLYING,
        Withheld: E.FAILED,
        Moved: E.APPLIED,
        GivenBack: E.RELEASED,
    },
    E.APPLYING: {
        Moved: E.APPLIED,
        Refused: E.FAILED,
        Unanswered: E.UNKNOWN,
        Orphaned: E.UNKNOWN,
    },
    E.UNKNOWN: {Moved: E.APPLIED, Resumed: E.PENDING, GivenBack: E.RELEASED},
    E.FAILED: {Moved: E.APPLIED, Resumed: E.PENDING, GivenBack: E.RELEASED},
    E.APPLIED: {},
    E.RELEASED: {},
}
"""status -> event -> status; what is not listed is refused."""
_LEADS_TO = {event: status for row in ENTRY_TRANSITIONS.values() for event, status in row.items()}


@frozen
class Begun:
    """Somebody takes up the run, for the first time or again, to move its entries."""


@frozen
class TakenOver:
    """Somebody goes on where another has let its lease run out."""


@frozen
class ReleaseAsked:
    """An operator wants the payouts back that have not moved."""


@frozen
class Ended:
    """Nobody works on the run any more; the counts are of its entries as they are now.

    ``error`` is the code and message of the first entry that failed, if one has.
    """

    applied_count: int
    failed_count: int
    error: tuple[str | None, str | None] | None
    report_hash: str


class Completed(Ended):
    """Every entry has moved, or was given back before the run could move it."""


class Failed(Ended):
    """Some entry has not moved, or may not have."""


class Released(Ended):
    """What has not moved was given back."""


RunEvent = Begun | TakenOver | ReleaseAsked | Completed | Failed | Released

RUN_TRANSITIONS: Mapping[RunStatus, Mapping[type[object], RunStatus]] = {
    R.CREATED: {Begun: R.RUNNING, ReleaseAsked: R.RELEASING},
    R.RUNNING: {
        TakenOver: R.RUNNING,
        ReleaseAsked: R.RELEASING,
        Completed: R.APPLIED,
        Failed: R.FAILED,
    },
    R.RELEASING: {
        TakenOver: R.RELEASING,
        Completed: R.APPLIED,
        Failed: R.FAILED,
        Released: R.RELEASED,
    },
    R.FAILED: {Begun: R.RUNNING, ReleaseAsked: R.RELEASING},
    R.APPLIED: {},
    R.RELEASED: {},
}
"""status -> event -> status; what is not listed is refused."""


@frozen
class NettingAudit:
    """A row of a run's audit trail; ``entry_id`` is None when it is about the run itself."""

    run_id: str
    entry_id: str | None
    event_type: str
    details: Mapping[str, object]


def apply_entry(entry: Entry, event: EntryEvent, *, now: datetime) -> Entry:
    """Return what ``event`` makes of an entry at ``now``.

    Raises: IllegalTransition with ``run_id``, ``entry_id``, ``from_status`` and ``to_status`` when
    the table has no such step.
    """
    status = ENTRY_TRANSITIONS[entry.status].get(type(event))
    if status is None:
        raise IllegalTransition(
            f"an entry that is {entry.status} takes no {type(event).__name__}",
            details={
                "run_id": entry.run_id,
                "entry_id": entry.entry_id,
                "from_status": str(entry.status.wire),
                "to_status": str(_LEADS_TO[type(event)].wire),
            },
        )
    after = attrs.evolve(entry, status=status, updated_at=now)
    match event:
        case Claimed():
            after = attrs.evolve(after, attempts=entry.attempts + 1)
        case Moved():
            after = attrs.evolve(
                after,
                ledger_event_id=event.ledger_event_id,
                applied_at=now,
                last_error_code=None,
                last_error_message=None,
            )
        case Unanswered():
            unanswered_at = entry.unanswered_at if event.is_over else now
            doubted = attrs.evolve(after, doubt_at=now, unanswered_at=unanswered_at)
            after = _failing(doubted, event.code, event.message)
        case Orphaned():
            doubted = attrs.evolve(after, doubt_at=now)
            after = _failing(doubted, "LEDGER_INGEST_FAILED", "who asked the ledger has gone")
        case Withheld() | Refused():
            after = _failing(after, event.code, event.message)
        case GivenBack() if event.code is not None:
            after = _failing(after, event.code, event.message or "")
    return after


def apply_run(run: Run, event: RunEvent, *, now: datetime) -> Run:
    """Return what ``event`` makes of a run at ``now``; its lease is not its concern.

    Raises: IllegalTransition with ``run_id``, ``from_status`` and ``to_status`` when the table has
    no such step.
    """
    status = RUN_TRANSITIONS[run.status].get(type(event))
    if status is None:
        wanted = R.RELEASED if isinstance(event, ReleaseAsked) else R.RUNNING
        raise IllegalTransition(
            f"a netting run that is {run.status} cannot become {wanted}",
            details={
                "run_id": run.run_id,
                "from_status": str(run.status),
                "to_status": str(wanted),
            },
        )
    after = attrs.evolve(run, status=status, updated_at=now)
    if isinstance(event, Ended):
        code, message = event.error or (None, None)
        return attrs.evolve(
            after,
            applied_count=event.applied_count,
            failed_count=event.failed_count,
            last_error_code=code,
            last_error_message=message,
            report_hash=event.report_hash,
            completed_at=now,
        )
    # What is being worked on has no report that would stay true.
    return attrs.evolve(after, report_hash=None, completed_at=None)


def entry_audit(before: Entry, after: Entry) -> NettingAudit:
    """Return the audit row of an entry's step."""
    details: dict[str, object] = {"from_status": str(before.status), "attempts": after.attempts}
    if after.ledger_event_id is not None:
        details["ledger_event_id"] = after.ledger_event_id
    if after.last_error_code is not None:
        details |= {"code": after.last_error_code, "message": after.last_error_message}
    event_type = f"netting.entry.{after.status}"
    return NettingAudit(after.run_id, after.entry_id, event_type, details)


def run_audit(before: Run, after: Run) -> NettingAudit:
    """Return the audit row of a run's step."""
    details: dict[str, object] = {"from_status": str(before.status)}
    if after.completed_at is not None:
        details |= {
            "applied_count": after.applied_count,
            "failed_count": after.failed_count,
            "report_hash": after.report_hash,
        }
    return NettingAudit(after.run_id, None, f"netting.run.{after.status}", details)


@frozen
class EntryCheck:
    """What an entry is made of, read anew; amounts signed, in minor units, None for no items.

    ``belong_to_it``: the payouts have its connected account, currency and clearing account;
    ``are_unchanged``: they are still paid, or have still failed, as when the entry was made.
    """

    item_count: int
    items_minor: int | None
    payouts_minor: int | None
    belong_to_it: bool | None
    are_unchanged: bool | None


def judge_entry(entry: Entry, check: EntryCheck) -> Claimed | Moved | Withheld | GivenBack:
    """Decide whether an entry may be moved, before the ledger is asked to.

    One whose payouts cancel each other out has moved with that.

    Source: netting contract section 10 (20).
    """
    is_whole = check.item_count == len(entry.all_payout_ids)
    sums = {entry.amount_minor, check.items_minor, check.payouts_minor}
    if not is_whole or len(sums) > 1 or not check.belong_to_it:
        return Withheld("NETTING_SUM_MISMATCH", "the entry is not the sum of its payouts")
    if check.are_unchanged:
        return Claimed() if entry.amount_minor else Moved(None)
    message = "a payout of the entry has failed, or was returned, since it was made"
    if entry.doubt_at is None:
        return GivenBack("PAYOUT_STATE_CHANGED", message)
    return Withheld("PAYOUT_STATE_CHANGED", f"{message}, and it may have moved: release the run")


def conclude(
    run: Run, counts: Mapping[EntryStatus, int], error: tuple[str | None, str | None] | None
) -> Completed | Failed | Released:
    """Return how a run ends whose entries stand so; the report's hash is still to be known.

    ``error`` is the first entry's that has not moved.
    """
    applied_count, released_count = counts.get(E.APPLIED, 0), counts.get(E.RELEASED, 0)
    left_count = sum(counts.values()) - applied_count - released_count
    if left_count:
        code, message = error or (None, None)
        said = (code or "NETTING_RUN_FAILED", message)
        return Failed(applied_count, left_count, said, "")
    if run.status is R.RELEASING and released_count:
        return Released(applied_count, 0, (run.last_error_code, run.last_error_message), "")
    return Completed(applied_count, 0, None, "")


def may_arrive(entry: Entry, now: datetime) -> bool:
    """Return whether a request for the entry may still reach the ledger.

    Until then its payouts are not given back: another entry would move them again.
    """
    return entry.doubt_at is not None and now - entry.doubt_at < QUIET


def may_be_under_way(entry: Entry, now: datetime) -> bool:
    """Return whether a request for the entry was sent and may not have been worked on yet.

    Until then a ledger that does not repeat safely is not sent another one. What a daemon that has
    died had sent is over by the time its lease is.
    """
    return entry.unanswered_at is not None and now - entry.unanswered_at < QUIET


def _failing(entry: Entry, code: str, message: str) -> Entry:
    return attrs.evolve(entry, last_error_code=code, last_error_message=message[:ERROR_MESSAGE_MAX])
