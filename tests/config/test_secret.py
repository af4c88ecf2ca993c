import copy
import hmac
import json
import pickle
from collections.abc import Callable

import attrs
import pytest

from clawsettle.config import AdminSettings, Secret, matches_any


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r:>20}".format, lambda s: f"{s}"])
def test_every_way_to_show_a_secret_hides_it(show: Callable[[object], str]) -> None:
    assert "Secret(hidden)" in show(Secret("hunter2"))
    assert "hunter2" not in show(Secret("hunter2"))


def test_a_secret_is_revealed_on_demand_only() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert not hasattr(secret, "__dict__")
    assert "hunter2" not in repr(attrs.asdict(AdminSettings(keys=(secret,))))


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_a_blank_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        Secret(text)


@pytest.mark.parametrize(
    ("other", "is_equal"),
    [(Secret("a"), True), (Secret("b"), False), (Secret("aa"), False), ("a", False), (None, False)],
)
def test_secrets_are_equal_by_their_text_and_to_nothing_else(other: object, is_equal: bool) -> None:
    assert (Secret("a") == other) is is_equal


def test_equal_secrets_hash_alike() -> None:
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.mark.parametrize(
    "leak", [pickle.dumps, json.dumps, copy.deepcopy], ids=["pickle", "json", "deepcopy"]
)
def test_a_secret_does_not_become_text_by_accident(leak: Callable[[object], object]) -> None:
    with pytest.raises(TypeError) as refusal:
        leak(Secret("hunter2"))
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("candidate", "is_match"),
    [
        ("one", True),
        ("zwei-ü", True),
        ("", False),
        ("on", False),
        ("One", False),
        ("\udcff", False),
    ],
)
def test_a_candidate_matches_any_of_the_secrets(candidate: str, is_match: bool) -> None:
    assert matches_any(candidate, [Secret("one"), Secret("zwei-ü")]) is is_match


def test_nothing_matches_no_secrets() -> None:
    assert not matches_any("one", [])


@pytest.mark.parametrize("candidate", ["one", "two", "three", "none"])
def test_every_secret_is_compared_whichever_matches(
    candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counting(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    matches_any(candidate, [Secret("one"), Secret("two"), Secret("three")])
    assert compared == [b"one", b"two", b"three"]
