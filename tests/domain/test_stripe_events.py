"""A Stripe event's envelope, and whether its mode belongs to this environment."""

from typing import Any

import pytest

from clawsettle.domain.errors import CallerError
from clawsettle.domain.stripe_events import (
    LivemodeMismatch,
    StripeEvent,
    check_livemode,
    parse_event,
)

CREATED_S = 1739290000
ABSENT = object()

ENVELOPE: dict[str, Any] = {
    "id": "evt_1",
    "type": "payout.paid",
    "created": CREATED_S,
    "livemode": True,
    "data": {"object": {"id": "po_1"}},
}


def test_an_envelope_is_read() -> None:
    assert parse_event(ENVELOPE) == StripeEvent(
        "evt_1", "payout.paid", CREATED_S, livemode=True, object={"id": "po_1"}
    )


def test_ids_and_types_are_trimmed_also_in_the_key() -> None:
    read = parse_event({**ENVELOPE, "id": " evt_1\n", "type": "\tpayout.paid "})
    assert (read.event_id, read.event_type) == ("evt_1", "payout.paid")
    assert read.idempotency_key == "stripe:event:evt_1"


@pytest.mark.parametrize("livemode", [ABSENT, None, 0, 1, "true", "false", []])
def test_a_livemode_that_is_no_boolean_is_missing(livemode: object) -> None:
    document = {k: v for k, v in {**ENVELOPE, "livemode": livemode}.items() if v is not ABSENT}
    assert parse_event(document).livemode is None


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "not a JSON object"),
        (None, "not a JSON object"),
        ("evt_1", "not a JSON object"),
        (5, "not a JSON object"),
        ({}, "no usable id"),
        ({**ENVELOPE, "id": None}, "no usable id"),
        ({**ENVELOPE, "id": 7}, "no usable id"),
        ({**ENVELOPE, "id": "  "}, "no usable id"),
        ({**ENVELOPE, "id": "e" * 256}, "no usable id"),
        ({**ENVELOPE, "id": "evt 1"}, "no usable id"),
        ({**ENVELOPE, "id": "evt_1\r\nx-admin-key: 1"}, "no usable id"),
        ({**ENVELOPE, "id": "evt_\u00e9"}, "no usable id"),
        ({**ENVELOPE, "id": "evt_\x7f"}, "no usable id"),
        ({**ENVELOPE, "type": None}, "no usable type"),
        ({**ENVELOPE, "type": ""}, "no usable type"),
        ({**ENVELOPE, "type": "t" * 256}, "no usable type"),
        ({**ENVELOPE, "type": ["payout.paid"]}, "no usable type"),
        ({**ENVELOPE, "data": None}, "no data object"),
        ({**ENVELOPE, "data": []}, "no data object"),
        ({**ENVELOPE, "data": {}}, "no data.object object"),
        ({**ENVELOPE, "data": {"object": []}}, "no data.object object"),
        ({**ENVELOPE, "data": {"object": "po_1"}}, "no data.object object"),
        # Several faults at once: the first in the contract's order is the one that is told.
        ({"type": "", "data": []}, "no usable id"),
        ({"id": "evt_1", "data": []}, "no usable type"),
        ({"id": "evt_1", "type": "x", "data": [], "livemode": 3}, "no data object"),
    ],
)
def test_an_envelope_is_checked_in_order_and_refused_without_details(
    document: object, said: str
) -> None:
    with pytest.raises(CallerError, match=said) as caught:
        parse_event(document)
    assert caught.value.code == "INVALID_REQUEST"
    assert caught.value.details == {}


@pytest.mark.parametrize(
    ("environment", "livemode", "allow_testmode", "details"),
    [
        ("staging", False, False, None),
        ("staging", False, True, None),
        ("production", True, False, None),
        ("production", True, True, None),
        ("production", False, True, None),
        (
            "production",
            False,
            False,
            {
                "settle_env": "production",
                "expected_livemode": True,
                "event_livemode": False,
                "allow_testmode_in_prod": False,
            },
        ),
        *(
            (
                "staging",
                True,
                flag,
                {"settle_env": "staging", "expected_livemode": False, "event_livemode": True},
            )
            for flag in (False, True)
        ),
        *(
            (
                environment,
                None,
                flag,
                {
                    "settle_env": environment,
                    "expected_livemode": environment == "production",
                    "event_livemode": None,
                    "reason": "missing_livemode",
                },
            )
            for environment in ("staging", "production")
            for flag in (False, True)
        ),
    ],
)
def test_an_event_must_be_of_this_environments_mode(
    environment: str, livemode: bool | None, allow_testmode: bool, details: dict[str, object] | None
) -> None:
    told = StripeEvent("evt_1", "payout.paid", CREATED_S, livemode, {})
    if details is None:
        check_livemode(told, environment=environment, allow_testmode=allow_testmode)
        return
    with pytest.raises(LivemodeMismatch) as caught:
        check_livemode(told, environment=environment, allow_testmode=allow_testmode)
    assert caught.value.code == "LIVEMODE_MISMATCH"
    assert caught.value.details == details
