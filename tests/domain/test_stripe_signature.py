"""Stripe's signature: what passes, what does not, and what a refusal says."""

import time

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.stripe_signature import (
    SignatureHeader,
    SignatureInvalid,
    parse_signature_header,
    sign,
    verify_signature,
)

SECRET, OTHER, THIRD = "whsec_test", "whsec_next", "whsec_gone"
NOW_S = 1739290005
BODY = b'{"id":"evt_1"}'
HEX = "ab" * 32
NO_DETAILS: dict[str, object] = {}


def signed(
    body: bytes = BODY, *, secret: str = SECRET, timestamp_s: int = NOW_S, scheme: str = "v1"
) -> str:
    return f"t={timestamp_s},{scheme}={sign(body, timestamp_s=timestamp_s, secret=secret)}"


def verify(
    header: str | None,
    body: bytes = BODY,
    *,
    secrets: tuple[str, ...] = (SECRET,),
    now_s: float = NOW_S,
    tolerance_s: int = 300,
    future_skew_s: int = 60,
) -> None:
    verify_signature(
        header,
        body,
        secrets=secrets,
        now_s=now_s,
        tolerance_s=tolerance_s,
        future_skew_s=future_skew_s,
    )


@pytest.mark.parametrize(
    ("header", "timestamp_s", "candidates"),
    [
        (f"t=12,v1={HEX}", 12, [HEX]),
        (f"  t=12 , v1={HEX}  ", 12, [HEX]),
        (f",,t=12,,v1={HEX},", 12, [HEX]),
        (f"t= 12 ,v1= {HEX} ", 12, [HEX]),
        (f"v1={HEX},t=12", 12, [HEX]),
        (f"t=0012,v1={HEX}", 12, [HEX]),
        (f"t=999999999999,v1={HEX}", 999999999999, [HEX]),
        (f"t=,t=12,v1=,v1={HEX}", 12, [HEX]),
        (f"t,t=12,v1,nonsense,v1={HEX}", 12, [HEX]),
        (f"t=12,v0={'0' * 64},v2=x,v1={HEX}", 12, [HEX]),
        (f"t =99,t=12,v1 =zz,v1={HEX}", 12, [HEX]),
        (f"T=99,t=12,V1=zz,v1={HEX}", 12, [HEX]),
        (f"t=12,v1={HEX.upper()}", 12, [HEX]),
        ("t=12,v1=a,v1=b,v1=a", 12, ["a", "b", "a"]),
        ("t=12,v1=a=b", 12, ["a=b"]),
        ("t=12,v1=deadbeef", 12, ["deadbeef"]),
    ],
)
def test_a_header_is_read_as_the_contract_says(
    header: str, timestamp_s: int, candidates: list[str]
) -> None:
    assert parse_signature_header(header) == SignatureHeader(timestamp_s, tuple(candidates))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "   ",
        ",,,",
        "nonsense",
        "t=12",
        "t=12,v1=",
        "t=12,v0=" + HEX,
        "v1=" + HEX,
        f"t=0,v1={HEX}",
        f"t=000,v1={HEX}",
        f"t =12,v1={HEX}",
        f"t=12,v1 ={HEX}",
        f"T=12,v1={HEX}",
        f"t=12,t=12,v1={HEX}",
        f"t=12,t=junk,v1={HEX}",
        f"t=12junk,v1={HEX}",
        f"t=12.9,v1={HEX}",
        f"t=+12,v1={HEX}",
        f"t=-12,v1={HEX}",
        f"t=1 2,v1={HEX}",
        f"t=0x12,v1={HEX}",
        f"t=\u0661\u0662,v1={HEX}",
        f"t={'1' * 13},v1={HEX}",
        f"t={'1' * 400},v1={HEX}",
        f"t={'1' * 5000},v1={HEX}",
        "t=12," + ",".join(["v1=a"] * 65),
    ],
)
def test_a_header_that_is_not_exact_is_refused_without_details(header: str | None) -> None:
    with pytest.raises(SignatureInvalid) as caught:
        parse_signature_header(header)
    assert caught.value.code == "SIGNATURE_INVALID"
    assert caught.value.details == NO_DETAILS
    with pytest.raises(SignatureInvalid):
        verify(header)


@pytest.mark.parametrize(
    ("age_s", "passes"),
    [
        (0, True),
        (300, True),
        (300.001, False),
        (301, False),
        (10**9, False),
        (-60, True),
        (-60.001, False),
        (-61, False),
        (-300, False),
    ],
)
def test_a_signature_has_its_time(age_s: float, passes: bool) -> None:
    header = signed()
    if passes:
        verify(header, now_s=NOW_S + age_s)
        return
    with pytest.raises(SignatureInvalid) as caught:
        verify(header, now_s=NOW_S + age_s)
    assert caught.value.details == {"tolerance_seconds": 300}


def test_the_tolerance_and_the_skew_are_what_is_configured() -> None:
    verify(signed(), now_s=NOW_S + 10, tolerance_s=10, future_skew_s=0)
    verify(signed(), now_s=NOW_S, tolerance_s=10, future_skew_s=0)
    with pytest.raises(SignatureInvalid) as caught:
        verify(signed(), now_s=NOW_S + 11, tolerance_s=10, future_skew_s=0)
    assert caught.value.details == {"tolerance_seconds": 10}
    with pytest.raises(SignatureInvalid):
        verify(signed(), now_s=NOW_S - 1, tolerance_s=10, future_skew_s=0)


@pytest.mark.parametrize("signer", [SECRET, OTHER])
def test_during_a_rotation_either_secret_signs(signer: str) -> None:
    verify(signed(secret=signer), secrets=(SECRET, OTHER))
    verify(signed(secret=signer), secrets=(OTHER, SECRET))


@pytest.mark.parametrize("secrets", [(SECRET, OTHER), (OTHER,), ()])
def test_a_secret_that_is_not_ours_signs_nothing(secrets: tuple[str, ...]) -> None:
    with pytest.raises(SignatureInvalid) as caught:
        verify(signed(secret=THIRD), secrets=secrets)
    assert caught.value.details == NO_DETAILS


def test_one_good_candidate_among_many_is_enough_wherever_it_stands() -> None:
    good = sign(BODY, timestamp_s=NOW_S, secret=SECRET)
    bad = [f"v1={'0' * 64}", "v1=short", "v1=\u00e9\u00e9"]
    for place in range(len(bad) + 1):
        chunks = [*bad[:place], f"v1={good}", *bad[place:]]
        verify(f"t={NOW_S}," + ",".join(chunks))


def test_an_upper_case_signature_passes() -> None:
    verify(f"t={NOW_S},v1={sign(BODY, timestamp_s=NOW_S, secret=SECRET).upper()}")


@pytest.mark.parametrize(
    "candidate", ["deadbeef", "0" * 64, "\u00e9" * 64, "\uff41" * 64, "\U0001f980", "=", '"']
)
def test_a_candidate_that_is_no_signature_is_refused(candidate: str) -> None:
    with pytest.raises(SignatureInvalid) as caught:
        verify(f"t={NOW_S},v1={candidate}")
    assert caught.value.details == NO_DETAILS


def test_another_scheme_does_not_count_even_with_the_right_value() -> None:
    with pytest.raises(SignatureInvalid):
        verify(signed(scheme="v0"))
    with pytest.raises(SignatureInvalid):
        verify(f"{signed(scheme='v0')},v1={'0' * 64}")


@pytest.mark.parametrize("tampered", [BODY + b" ", b" " + BODY, BODY[:-1], b"", BODY.upper()])
def test_one_byte_more_or_less_is_another_body(tampered: bytes) -> None:
    with pytest.raises(SignatureInvalid):
        verify(signed(), tampered)


def test_the_timestamp_is_part_of_what_is_signed() -> None:
    signature = sign(BODY, timestamp_s=NOW_S, secret=SECRET)
    with pytest.raises(SignatureInvalid) as caught:
        verify(f"t={NOW_S - 1},v1={signature}")
    assert caught.value.details == NO_DETAILS


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a":"\xed\xa0\x80"}', b"a\0b", b"\r\n"]
)
def test_the_raw_bytes_are_signed_whatever_they_spell(body: bytes) -> None:
    verify(signed(body), body)


def test_two_bodies_that_decode_alike_have_different_signatures() -> None:
    one, other = b'"\xff"', b'"\xfe"'
    assert one.decode(errors="replace") == other.decode(errors="replace")
    with pytest.raises(SignatureInvalid):
        verify(signed(one), other)


def test_the_time_is_judged_before_the_signature() -> None:
    with pytest.raises(SignatureInvalid) as caught:
        verify(f"t={NOW_S - 301},v1={HEX}")
    assert caught.value.details == {"tolerance_seconds": 300}


@given(st.binary(), st.text(min_size=1), st.integers(min_value=1, max_value=10**12 - 1))
@settings(deadline=None, max_examples=50)
def test_whatever_is_signed_verifies_and_any_other_body_does_not(
    body: bytes, text: str, timestamp_s: int
) -> None:
    secret = text.encode(errors="replace").decode()
    header = signed(body, secret=secret, timestamp_s=timestamp_s)
    verify(header, body, secrets=(secret,), now_s=timestamp_s)
    with pytest.raises(SignatureInvalid):
        verify(header, body + b"\0", secrets=(secret,), now_s=timestamp_s)


@given(st.text())
@settings(deadline=None)
def test_no_header_text_does_anything_but_be_refused(header: str) -> None:
    with pytest.raises(SignatureInvalid):
        verify(header)


@pytest.mark.parametrize("body", [BODY, "{\u00fcber: \U0001f980}".encode(), b"", b"\r\n {} "])
def test_stripes_own_library_accepts_our_signatures(body: bytes) -> None:
    header = signed(body, timestamp_s=int(time.time()))
    assert stripe.WebhookSignature.verify_header(body.decode(), header, SECRET, tolerance=300)


def test_we_accept_the_signatures_of_stripes_own_library() -> None:
    header = stripe.WebhookSignature.generate_signature_header(
        BODY.decode(), SECRET, timestamp=NOW_S
    )
    verify(header)


def test_stripes_own_library_refuses_what_we_refuse() -> None:
    header = signed(secret=OTHER, timestamp_s=int(time.time()))
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(BODY.decode(), header, SECRET, tolerance=300)
    with pytest.raises(SignatureInvalid):
        verify(header, now_s=time.time())
