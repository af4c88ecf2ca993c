"""What may be asked of an onboarding, and where it may lead."""

import pytest

from clawsettle.domain.errors import CallerError
from clawsettle.domain.onboarding import OnboardingRequest, is_onboarding_url, parse_onboarding

BODY: dict[str, object] = {"account_id": "acc_1"}


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example",
        "https://shop.example:8443/done?order=7&next=%2F#top",
        "https://[2001:db8::1]/done",
        "http://localhost:3000/done",
        "http://127.0.0.1/done",
        "http://[::1]:3000/",
        "https://shop.example/" + "x" * 1979,
    ],
)
def test_an_onboarding_may_lead_to_a_secure_or_a_local_page(url: str) -> None:
    assert is_onboarding_url(url)
    assert parse_onboarding({**BODY, "return_url": f" {url}\n"}).return_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/done",
        "http://localhost.evil.example/",
        "//shop.example/done",
        "/done",
        "javascript:alert(1)",
        "https:shop.example",
        "https:///done",
        "https://user@shop.example/",
        "https://user:word@shop.example/",
        "https://shop.example\\@evil.example/",
        "https://shop.example/a b",
        "https://shop.example/\tdone",
        "https://shöp.example/",
        "https://shop.example:port/",
        "https://shop.example:0/",
        "https://[::1/",
        "https://shop.example/" + "x" * 1980,
    ],
)
@pytest.mark.parametrize("field", ["refresh_url", "return_url"])
def test_an_onboarding_leads_nowhere_else(url: str, field: str) -> None:
    with pytest.raises(CallerError) as refusal:
        parse_onboarding({**BODY, field: url})
    assert (refusal.value.code, refusal.value.details) == ("INVALID_REQUEST", {"field": field})


@pytest.mark.parametrize("value", [None, "", "  ", 7, True, ["https://shop.example"], {}])
def test_a_url_that_is_blank_or_no_text_counts_as_not_given(value: object) -> None:
    asked = parse_onboarding({"account_id": " acc_1 ", "refresh_url": value, "return_url": value})
    assert asked == OnboardingRequest("acc_1", None, None)


@pytest.mark.parametrize("value", [None, "", "  ", 7, "x" * 256])
def test_an_account_id_is_there_and_bounded(value: object) -> None:
    with pytest.raises(CallerError) as refusal:
        parse_onboarding({"account_id": value, "return_url": "http://shop.example"})
    assert refusal.value.details == {"field": "account_id"}


def test_a_body_that_is_no_object_is_refused_without_details() -> None:
    with pytest.raises(CallerError) as refusal:
        parse_onboarding([])
    assert (refusal.value.code, refusal.value.details) == ("INVALID_REQUEST", {})
