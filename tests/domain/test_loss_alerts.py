"""Which deliveries somebody is told of, and why."""

import pytest

from clawsettle.domain.loss_alerts import Alert, alert_of
from clawsettle.domain.loss_answers import UPSTREAM_ERROR
from clawsettle.domain.loss_events import DeliveryState

S = DeliveryState
CAUSES: list[tuple[int | None, str | None, Alert | None]] = [
    (None, None, None),
    (None, "FETCH_FAILED", None),
    (503, UPSTREAM_ERROR, None),
    (429, UPSTREAM_ERROR, None),
    (408, UPSTREAM_ERROR, None),
    (200, "UNPROVEN_ANSWER", None),
    (401, "UNAUTHORIZED", Alert.MISCONFIGURED),
    (403, UPSTREAM_ERROR, Alert.MISCONFIGURED),
    (301, UPSTREAM_ERROR, Alert.MISCONFIGURED),
    (308, UPSTREAM_ERROR, Alert.MISCONFIGURED),
    (404, UPSTREAM_ERROR, Alert.MISCONFIGURED),
    (404, "NOT_FOUND", None),
    (400, "INSUFFICIENT_FUNDS", Alert.UNFUNDED),
    (409, "RISK_HOLD_RELEASE_FAILED", Alert.UNFUNDED),
]


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(("http_status", "code", "cause"), CAUSES)
def test_a_failed_delivery_is_told_of_by_its_cause_or_once_it_is_old(
    http_status: int | None, code: str | None, cause: Alert | None, *, is_old: bool
) -> None:
    expected = cause or (Alert.LATE if is_old else None)
    told = alert_of(S.FAILED, http_status, code, is_configured=True, is_old=is_old)
    assert told is expected


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(("http_status", "code"), [cause[:2] for cause in CAUSES])
def test_the_other_states_are_told_of_whatever_their_last_error(
    http_status: int | None, code: str | None, *, is_old: bool
) -> None:
    late = Alert.LATE if is_old else None
    told = {
        S.PENDING: late,
        S.WAITING: late,
        S.DEAD: Alert.REFUSED,
        S.FORWARDED: None,
        S.NOT_APPLICABLE: None,
        S.CANCELED: None,
    }
    assert told.keys() | {S.FAILED} == set(S)
    for state, alert in told.items():
        found = alert_of(state, http_status, code, is_configured=True, is_old=is_old)
        assert found is alert


@pytest.mark.parametrize("state", S)
def test_what_is_open_for_a_target_that_is_not_configured_is_told_of(state: S) -> None:
    expected = Alert.UNCONFIGURED if state.is_open else None
    if state is S.DEAD:
        expected = Alert.REFUSED
    assert alert_of(state, 503, UPSTREAM_ERROR, is_configured=False, is_old=True) is expected
