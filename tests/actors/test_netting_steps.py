"""What is asked of a ledger for one entry, and what the answer means."""

from datetime import timedelta

import attrs
import pytest
from attrs import define

from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.domain.forwarding import Refused, Unknown
from clawsettle.domain.ledger_orders import Applied, TransferOrder
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.domain.netting_transitions import QUIET, GivenBack, apply_entry
from tests.domain.netting_cases import AT, entry, run

SECOND = timedelta(seconds=1)


@define
class Ignorant:
    """A ledger that has never heard of anything."""

    async def transferred(self, _order: TransferOrder) -> Applied | None:
        return None


@define
class Answering(Ignorant):
    """One that answers each transfer so, and has moved nothing."""

    outcome: Refused | Unknown

    async def transfer(self, _order: TransferOrder) -> Refused | Unknown:
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "status", "is_silent"),
    [
        (Refused(400, "no", "INSUFFICIENT_FUNDS"), EntryStatus.FAILED, False),
        (Refused(401, "no"), EntryStatus.FAILED, False),
        (Refused(403, "no"), EntryStatus.FAILED, False),
        (Unknown("no connection", sent=False), EntryStatus.FAILED, False),
        (Refused(409, "no", "CONFLICT"), EntryStatus.UNKNOWN, False),
        (Refused(500, "no", "EVENT_WRITE_FAILED"), EntryStatus.UNKNOWN, False),
        (Unknown("no event", 200), EntryStatus.UNKNOWN, False),
        (Unknown("not in time", timed_out=True), EntryStatus.UNKNOWN, True),
    ],
    ids=lambda given: getattr(given, "message", None),
)
async def test_only_what_is_certain_is_failed_and_only_silence_may_be_under_way(
    outcome: Refused | Unknown, status: EntryStatus, *, is_silent: bool
) -> None:
    steps = NettingSteps(Answering(outcome), 5.0)  # type: ignore[arg-type]
    applying = entry(status=EntryStatus.APPLYING, attempts=1)
    after = apply_entry(applying, await steps.move(run(), applying), now=AT)
    assert (after.status, after.unanswered_at) == (status, AT if is_silent else None)


@pytest.mark.parametrize(
    ("quiet", "event"), [(QUIET - SECOND, None), (QUIET, GivenBack())], ids=["short", "long"]
)
async def test_what_may_be_under_way_is_judged_by_the_clock_that_says_since_when(
    quiet: timedelta, event: GivenBack | None
) -> None:
    doubtful = entry(status=EntryStatus.UNKNOWN, attempts=1, doubt_at=AT)
    claimed = attrs.evolve(run(), status=RunStatus.RELEASING, updated_at=AT + quiet)
    steps = NettingSteps(Ignorant(), 5.0)  # type: ignore[arg-type]
    assert await steps.give_back(claimed, doubtful) == event
