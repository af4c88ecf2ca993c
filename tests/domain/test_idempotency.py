"""Which header carries the caller's idempotency key, and what may stand in it."""

import pytest

from clawsettle.domain.errors import CallerError
from clawsettle.domain.idempotency import KEY_MAX, parse_key


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"idempotency-key": " key_1 "}, "key_1"),
        ({"x-idempotency-key": "key_2"}, "key_2"),
        ({"idempotency-key": "key_1", "x-idempotency-key": "key_2"}, "key_1"),
        ({"idempotency-key": "k" * KEY_MAX}, "k" * KEY_MAX),
    ],
)
def test_the_key_is_the_first_header_that_is_there(headers: dict[str, str], key: str) -> None:
    assert parse_key(headers) == key


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"idempotency-key": " ", "x-idempotency-key": "key_2"},
        {"idempotency-key": "k" * (KEY_MAX + 1)},
    ],
)
def test_a_key_is_needed(headers: dict[str, str]) -> None:
    with pytest.raises(CallerError) as refused:
        parse_key(headers)
    assert refused.value.details == {"field": "idempotency_key"}
