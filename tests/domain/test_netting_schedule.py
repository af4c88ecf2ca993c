from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.config import Settings, netting_defaults
from clawsettle.domain.netting_requests import LIMIT_MAX
from clawsettle.domain.netting_schedule import scheduled_request, slot_at

DEFAULTS = netting_defaults(Settings())
NOON = datetime(2026, 2, 11, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "every_s", "slot"),
    [
        (NOON, 60, NOON),
        (NOON + timedelta(seconds=59, microseconds=999_999), 60, NOON),
        (NOON + timedelta(seconds=60), 60, NOON + timedelta(seconds=60)),
        (NOON, 86_400, datetime(2026, 2, 11, tzinfo=UTC)),
        (NOON.astimezone(timezone(timedelta(hours=14))), 86_400, datetime(2026, 2, 11, tzinfo=UTC)),
    ],
)
def test_a_slot_begins_at_a_multiple_of_its_length_in_utc(
    now: datetime, every_s: int, slot: datetime
) -> None:
    assert slot_at(now, every_s) == slot


@given(
    since=st.timedeltas(min_value=timedelta(), max_value=timedelta(days=80_000)),
    every_s=st.integers(min_value=60, max_value=86_400),
)
def test_an_instant_is_in_the_one_slot_that_is_cut_out_around_it(
    since: timedelta, every_s: int
) -> None:
    now = datetime(1970, 1, 1, tzinfo=UTC) + since
    slot = slot_at(now, every_s)
    assert slot <= now < slot + timedelta(seconds=every_s)
    assert slot_at(slot, every_s) == slot


def test_the_order_of_a_slot_takes_all_that_waits_and_is_named_by_the_slot() -> None:
    request = scheduled_request(NOON, DEFAULTS)
    assert request.idempotency_key == (
        "netting:schedule:clawsettle.payouts:clawsettle.netting:2026-02-11T12:00:00.000Z"
    )
    assert (request.limit, request.is_scheduled, request.dry_run) == (LIMIT_MAX, True, False)
    assert request == scheduled_request(NOON, DEFAULTS)
    assert request.run_id != scheduled_request(NOON + timedelta(seconds=60), DEFAULTS).run_id
