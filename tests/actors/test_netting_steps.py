"""What is asked of a ledger for one entry, and what the answer means."""

from datetime import timedelta

import attrs
import pytest
from attrs import define

from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.domain.ledger_orders import Applied, TransferOrder
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.domain.netting_transitions import QUIET, GivenBack
from tests.domain.netting_cases import AT, entry, run

SECOND = timedelta(seconds=1)


@define
class Ignorant:
    """A ledger that has never heard of anything."""

    async def transferred(self, _order: TransferOrder) -> Applied | None:
        return None


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
