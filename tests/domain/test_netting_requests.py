"""What a caller may ask of netting: each field, the order of the checks, and what is the same."""

from typing import Any

import pytest

from clawsettle.domain.errors import CallerError, ConflictError
from clawsettle.domain.netting_requests import (
    LIMIT_MAX,
    NettingDefaults,
    NettingRequest,
    parse_netting,
)
from tests.domain.netting_cases import run

NETTING = "clawsettle.netting"
DEFAULTS = NettingDefaults("clawsettle.payouts", NETTING, 100, {NETTING, "clawsettle.other"})
SAME = {
    "source_clearing_domain": "clawsettle.netting",
    "target_clearing_domain": "clawsettle.netting",
}
UNTEXTS: tuple[object, ...] = (None, "", " \t\n", 7, True, ["USD"], {})
"""What is no text, whatever the field."""
UNNUMBERS: tuple[object, ...] = (None, "10", "", [], {}, True, False)
UNBOOLS: tuple[object, ...] = (None, "true", 1, 0, [])
UNNAMES = ("a\nb", "a\0b", "a\ud800b", "a\u200bb", "d" * 256)
"""What is a text and no clearing account's domain."""


def request(body: object = None, defaults: NettingDefaults = DEFAULTS) -> NettingRequest:
    return parse_netting("key_1", body, defaults)


def refusal(body: object, defaults: NettingDefaults = DEFAULTS) -> tuple[str, object]:
    with pytest.raises(CallerError) as refused:
        request(body, defaults)
    return refused.value.code, refused.value.details


@pytest.mark.parametrize("body", [None, {}])
def test_an_empty_order_has_the_defaults(body: object) -> None:
    asked = request(body)
    assert (asked.currency, asked.limit, asked.asked, asked.dry_run) == ("USD", 100, {}, False)
    assert asked.source_clearing_domain == "clawsettle.payouts"
    assert asked.target_clearing_domain == NETTING


@pytest.mark.parametrize("body", [[], [{}], "{}", 1, 1.5, True, False])
def test_what_is_no_object_is_no_order(body: object) -> None:
    assert refusal(body) == ("INVALID_REQUEST", {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("currency", value) for value in UNTEXTS),
        *(("source_clearing_domain", value) for value in (*UNTEXTS, *UNNAMES)),
        *(("target_clearing_domain", value) for value in (*UNTEXTS, *UNNAMES)),
        *(("limit", value) for value in UNNUMBERS),
        *(("limit", value) for value in (10.5, 0.5, 1e-9, -0.5)),
        *(("limit", value) for value in (0, -1, 0.0, -10.0, LIMIT_MAX + 1, 100001.0)),
        *(("limit", value) for value in (10**400, -(10**400), 1e308)),
        *(("limit", float(word)) for word in ("nan", "inf", "-inf")),
        *(("dry_run", value) for value in UNBOOLS),
    ],
)
def test_a_bad_field_is_refused_by_its_name(field: str, value: object) -> None:
    assert refusal({field: value}) == ("INVALID_REQUEST", {"field": field})


@pytest.mark.parametrize(
    ("value", "limit"),
    [(1, 1), (LIMIT_MAX, 100_000), (10.0, 10), (1e5, 100_000), (100_000.0, 10**5)],
)
def test_a_limit_is_a_whole_number_up_to_the_maximum(value: float, limit: int) -> None:
    asked = request({"limit": value})
    assert (asked.limit, type(asked.limit)) == (limit, int)


def test_a_default_limit_beyond_the_maximum_is_refused_like_one_that_was_asked_for() -> None:
    beyond = NettingDefaults("clawsettle.payouts", NETTING, LIMIT_MAX + 1, {NETTING})
    assert refusal({}, beyond) == ("INVALID_REQUEST", {"field": "limit"})
    assert request({"limit": 7}, beyond).limit == 7


@pytest.mark.parametrize(("value", "shown"), [("eur", "EUR"), (" gbp\n", "GBP"), ("US", "US")])
def test_another_currency_is_refused_as_such(value: str, shown: str) -> None:
    assert refusal({"currency": value}) == ("UNSUPPORTED_CURRENCY", {"currency": shown})


def test_texts_are_trimmed_and_the_currency_has_no_case() -> None:
    asked = request(
        {
            "currency": " usd\n",
            "source_clearing_domain": " clawsettle.payouts ",
            "target_clearing_domain": "\tclawsettle.other",
        }
    )
    assert (asked.currency, asked.source_clearing_domain, asked.target_clearing_domain) == (
        "USD",
        "clawsettle.payouts",
        "clawsettle.other",
    )


@pytest.mark.parametrize("domain", ["d", "d" * 255, "größe", "clearing.a b", "CLAWSETTLE.payouts"])
def test_a_domain_is_whatever_a_clearing_account_may_be_called(domain: str) -> None:
    assert request({"source_clearing_domain": domain}).source_clearing_domain == domain


def test_what_is_not_known_is_ignored() -> None:
    assert request({"selection_before": "now", "LIMIT": "x"}) == request()


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (SAME, SAME),
        ({"source_clearing_domain": " clawsettle.netting "}, SAME),
        (
            {"target_clearing_domain": "clawsettle.payouts"},
            dict.fromkeys(SAME, "clawsettle.payouts"),
        ),
    ],
)
def test_the_domains_must_differ_after_defaults_and_trimming(
    body: object, details: dict[str, str]
) -> None:
    assert refusal(body) == ("INVALID_REQUEST", details)


def test_domains_that_differ_in_case_differ() -> None:
    assert request({"source_clearing_domain": "Clawsettle.netting"})


def test_the_first_bad_field_in_the_contracts_order_is_the_one_that_is_named() -> None:
    body: dict[str, object] = {"currency": " ", "limit": "x", **dict.fromkeys(SAME, 1)}
    body["dry_run"] = "no"
    for field, mended in {"currency": "USD", "limit": 1, **SAME}.items():
        assert refusal(body) == ("INVALID_REQUEST", {"field": field})
        body[field] = mended
    assert refusal(body) == ("INVALID_REQUEST", SAME)
    assert refusal({"currency": "eur", "limit": "x"})[0] == "UNSUPPORTED_CURRENCY"


def test_what_means_the_same_is_one_request() -> None:
    for body in ({"limit": 100}, {"currency": "USD"}, {"currency": " usd ", "limit": 100.0}):
        assert request(body).request_hash == request().request_hash
    for body in ({"limit": 99}, {"target_clearing_domain": "clawsettle.other"}):
        assert request(body).request_hash != request().request_hash


def test_a_trial_run_is_the_same_request() -> None:
    tried = request({"dry_run": True})
    assert tried.dry_run
    assert tried.request_hash == request().request_hash
    assert tried.asked_hash == request().asked_hash


def kept(asked: NettingRequest) -> Any:
    return run(request_hash=asked.request_hash, asked_hash=asked.asked_hash)


CHANGED = NettingDefaults("clawsettle.payouts", "clawsettle.other", 7, {"clawsettle.other"})


@pytest.mark.parametrize(
    ("then", "now", "defaults"),
    [
        ({}, {"limit": 100, "currency": "usd"}, DEFAULTS),
        ({}, {}, CHANGED),
        ({"limit": 10}, {"limit": 10.0}, CHANGED),
        ({"limit": 100, "target_clearing_domain": NETTING}, {}, DEFAULTS),
        ({}, {"limit": 100, "target_clearing_domain": NETTING}, CHANGED),
    ],
)
def test_a_repetition_is_known_by_its_meaning_or_by_what_was_written(
    then: object, now: object, defaults: NettingDefaults
) -> None:
    request(now, defaults).check_same(kept(request(then)))


@pytest.mark.parametrize(
    ("then", "now", "defaults"),
    [
        ({}, {"limit": 99}, DEFAULTS),
        ({"limit": 10}, {"limit": 11}, DEFAULTS),
        ({"limit": 10}, {}, DEFAULTS),
        ({"limit": 100}, {}, CHANGED),
        ({}, {"target_clearing_domain": "clawsettle.other"}, DEFAULTS),
    ],
)
def test_another_request_under_a_key_is_refused_and_names_the_run(
    then: object, now: object, defaults: NettingDefaults
) -> None:
    with pytest.raises(ConflictError) as refused:
        request(now, defaults).check_same(kept(request(then)))
    assert refused.value.code == "IDEMPOTENCY_KEY_REUSED"
    assert refused.value.details == {"run_id": "nrun_1"}


def test_money_goes_to_targets_of_the_configuration_only() -> None:
    for target in DEFAULTS.targets:
        request({"target_clearing_domain": target}).check_target(DEFAULTS)
    with pytest.raises(CallerError) as refused:
        request({"target_clearing_domain": "clawsettle.Netting"}).check_target(DEFAULTS)
    assert refused.value.code == "INVALID_REQUEST"
    assert refused.value.details == {"field": "target_clearing_domain"}
