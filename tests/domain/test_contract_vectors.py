"""The contract's published vectors: hashes, ids and signatures that other programs compute too."""

from datetime import UTC, datetime

import pytest

from clawsettle.domain.accounts import account_ids, hash8
from clawsettle.domain.journal import GENESIS_HASH, event_hash
from clawsettle.domain.settlements import parse_ingest
from clawsettle.domain.stripe_signature import sign

AT = datetime(2026, 2, 11, tzinfo=UTC)


def test_a_webhook_body_is_signed_as_stripe_signs_it() -> None:
    body = b'{"id":"evt_1","type":"payment_intent.succeeded"}'
    expected = "7f9409429a36d849bdfe411834c7ae9ba932edf191fbc2ad46c67c8d0d80c1fd"
    assert sign(body, timestamp_s=1739290005, secret="whsec_test") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("did:key:alice", "32ca986a"),
        ("did:key:bob", "61720de1"),
        ("clawsettle.payouts", "28a671f7"),
        ("clawsettle.netting", "741c1c87"),
        ("d1", "00000c4d"),
        ("did:key:Aa", "76c1a16a"),
        ("did:key:BB", "76c1a16a"),
    ],
)
def test_ids_are_derived_as_callers_derive_them(text: str, expected: str) -> None:
    assert hash8(text) == expected


def test_colliding_dids_have_different_second_ids() -> None:
    first, first_long = account_ids("did:key:Aa")
    second, second_long = account_ids("did:key:BB")
    assert first == second
    assert first_long != second_long


@pytest.mark.parametrize(
    ("event_type", "to", "amount", "bucket", "key", "expected"),
    [
        (
            "payin_settle",
            None,
            1000,
            "available",
            "payment_settlement:set_x:payin_settle",
            "c98cc6919142f7b88d247f9482ec155d8a9dfe2d0f2a58d25bce4a9ba12fcbb8",
        ),
        (
            "transfer",
            "clr_28a671f7",
            50,
            "held",
            "t5",
            "8ea4b9d13caad38673ba5ee8fb634e25030f9c564927a6a1d7d844d964bd0df0",
        ),
    ],
)
def test_the_journal_is_chained_as_the_contract_says(
    event_type: str, to: str | None, amount: int, bucket: str, key: str, expected: str
) -> None:
    link = event_hash(
        GENESIS_HASH,
        event_type=event_type,
        account_id="acc_32ca986a",
        to_account_id=to,
        amount_minor=amount,
        bucket=bucket,
        idempotency_key=key,
        created_at=AT,
    )
    assert link == expected


def test_a_request_hash_is_taken_over_the_normalised_fields() -> None:
    body = {
        "provider": " stripe",
        "external_payment_id": "pi_1",
        "direction": "payin",
        "status": "confirmed",
        "account_id": "acc_32ca986a",
        "amount_minor": "01000",
        "currency": "usd",
        "network": "  ",
        "rail": None,
    }
    expected = "2970bf379c029aeb32b54a1886a5145fbec92dae4455d2a4df1a242eccd714a5"
    assert parse_ingest("k", body).request_hash == expected
