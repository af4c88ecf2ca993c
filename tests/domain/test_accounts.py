"""What a DID, an account id and a reference are, and what happens when two names share an id."""

import pytest

from clawsettle.domain.accounts import (
    AccountRef,
    account_ids,
    account_ref,
    clearing_ids,
    hash8,
    parse_did,
)
from clawsettle.domain.errors import CallerError
from tests.domain.ledger_desk import Desk
from tests.domain.ledger_requests import (
    ALIAS,
    ALICE,
    ALICE_ID,
    ANN,
    BEN,
    SHARED_ID,
    moved,
    open_account,
    open_clearing,
    settled,
)


@pytest.mark.parametrize(
    "did",
    [
        "did:key:alice",
        "did:web:example.com:users:7",
        "did:x1:A-Z_.%20",
        "did:claw:accounts:1",
        "did:key::",
        "did:key:" + "x" * 247,
    ],
)
def test_a_did_may_have_colons_and_255_characters(did: str) -> None:
    assert parse_did(did) == did


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "",
        "did:key",
        "did:key:",
        "did::x",
        "did:Key:x",
        "DID:key:x",
        " did:key:x",
        "did:key:x\n",
        "did:key:a b",
        "did:key:größe",
        "did:key:a/b",
        "did:internal:clearing:x",
        "did:claw:account:acc_32ca986a",
        "did:key:" + "x" * 248,
    ],
)
def test_what_is_no_did_of_an_account_is_refused(value: object) -> None:
    with pytest.raises(CallerError) as caught:
        parse_did(value)
    assert caught.value.code == "INVALID_DID"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "00000000"),
        ("a", "00000061"),
        ("Aa", hash8("BB")),
        ("\U0001f980", hash8("\ud83e\udd80")),  # a crab is two code units
        ("polygenelubricants", "80000000"),  # the one value without a positive counterpart
    ],
)
def test_the_hash_counts_utf_16_units_and_wraps_as_32_bits_do(text: str, expected: str) -> None:
    assert hash8(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f" {ALICE} ", AccountRef(ALICE, account_ids(ALICE), did=ALICE)),
        (ALICE_ID, AccountRef(ALICE_ID, (ALICE_ID,))),
        (ALIAS, AccountRef(ALIAS, (ALICE_ID,))),
        ("acc_x:y", AccountRef("acc_x:y", ("acc_x:y",))),
        ("clearing:d1", AccountRef("clearing:d1", clearing_ids("d1"), domain="d1")),
        ("clearing: a b ", AccountRef("clearing: a b", clearing_ids("a b"), domain="a b")),
        ("clearing:did:key:x", AccountRef("", clearing_ids("did:key:x"), domain="did:key:x")),
    ],
)
def test_a_reference_is_a_did_an_id_an_alias_or_a_clearing_domain(
    text: str, expected: AccountRef
) -> None:
    assert account_ref(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "clr_28a671f7",
        "external:stripe:USD",
        "clearing:",
        "clearing:  ",
        "clearing:" + "x" * 256,
        "Clearing:x",
        "did:claw:account:",
        "did:claw:account:did:key:alice",
        f"did:claw:account:{ALIAS}",
        "did:internal:clearing:d1",
    ],
)
def test_anything_else_is_no_reference(text: str) -> None:
    assert account_ref(text) is None


def test_the_id_of_the_second_name_is_longer_and_always_the_same() -> None:
    assert account_ids(ANN)[0] == account_ids(BEN)[0] == SHARED_ID
    assert account_ids(ANN)[1] == "acc_76c1a16a_" + account_ids(ANN)[1][-16:]
    assert account_ids(ANN)[1] != account_ids(BEN)[1]


@pytest.mark.parametrize(
    "pair",
    [
        # Any "Aa" may be a "BB", wherever it stands, so such pairs are easily made.
        ("did:key:Aa", "did:key:BB"),
        ("did:key:victimAa.1", "did:key:victimBB.1"),
        ("did:web:AaAa", "did:web:BBBB"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_dids_that_share_an_id_have_an_account_each(pair: tuple[str, str], turned: bool) -> None:
    first, second = reversed(pair) if turned else pair
    desk = Desk()
    short, long = account_ids(second)
    assert desk.ask(open_account(first)).body["id"] == short
    assert desk.ask(open_account(second)).body["id"] == long
    for did, account_id in ((first, short), (second, long)):
        answer = desk.ask(open_account(did))
        assert (answer.created, answer.body["id"], answer.body["did"]) == (False, account_id, did)


def test_domains_that_share_an_id_have_an_account_each() -> None:
    desk = Desk()
    opened = [desk.ask(open_clearing(domain)).body for domain in ("fees.Aa", "fees.BB")]
    assert [one["id"] for one in opened] == [clearing_ids("fees.Aa")[0], clearing_ids("fees.BB")[1]]
    assert [one["domain"] for one in opened] == ["fees.Aa", "fees.BB"]


def test_who_shares_an_id_shares_no_money() -> None:
    desk = Desk()
    desk.ask(open_account(BEN), open_account(ANN))
    desk.ask(settled("k1", "pi_1", "payin", 100, account_id=SHARED_ID))
    assert desk.refused(moved("t1", (ANN, "A"), (ALICE, "A"), 1)).code == "INSUFFICIENT_FUNDS"
    desk.ask(moved("t1", (BEN, "A"), (ANN, "A"), 30))
    assert desk.stands(SHARED_ID) == "A70"
    assert desk.stands(account_ids(ANN)[1]) == "A30"
    desk.ask(moved("t2", (account_ids(ANN)[1], "A"), (ALICE, "A"), 30))
    desk.prove()


def test_the_name_of_a_clearing_account_is_the_first_one_given() -> None:
    desk = Desk()
    desk.ask(open_clearing("d1", "First"))
    answer = desk.ask(open_clearing("d1", "Second"))
    assert (answer.created, answer.body["id"], answer.body["name"]) == (
        False,
        "clr_00000c4d",
        "First",
    )


@pytest.mark.parametrize("account_id", ["clr_00000c4d", "external:stripe:USD", ALICE, ALIAS])
def test_a_settlement_goes_to_a_users_account_by_its_id_alone(account_id: str) -> None:
    desk = Desk()
    desk.ask(open_clearing("d1"), settled("k1", "pi_1", "payin", 100))
    error = desk.refused(settled("k2", "pi_2", "payin", 100, account_id=account_id))
    assert (error.code, error.details) == ("NOT_FOUND", {"field": "account_id"})
