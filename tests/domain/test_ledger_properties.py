"""Whatever is asked of the ledger, in whatever order, the books balance."""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.book import Answer, Book
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.journal import ACCOUNT_EFFECT, EventType
from clawsettle.domain.ledger import Command, OpenAccount, decide
from clawsettle.domain.money import MINOR_MAX
from clawsettle.domain.settlements import Direction, IngestRequest, Status
from tests.domain.ledger_cases import (
    ABSENT,
    ALICE,
    ALICE_DID,
    BOB,
    BOB_DID,
    as_it_is,
    check_books,
    events_of,
    fund,
    new_book,
    request,
)
from tests.domain.ledger_requests import weighted

# The world is small, so that requests meet each other; two DIDs share a short account id.
DIDS = [ALICE_DID, BOB_DID, "did:key:Aa", "did:key:BB"]
PAYMENTS = [
    {"external_payment_id": "pi_1", "account_id": ALICE, "amount_minor": "100"},
    {"external_payment_id": "pi_2", "account_id": ALICE, "amount_minor": "30"},
    {"external_payment_id": "pi_3", "account_id": "acc_76c1a16a", "amount_minor": "100"},
    {"external_payment_id": "re_1", "account_id": ALICE, "amount_minor": "60"},
    {"external_payment_id": "po_1", "account_id": ALICE, "amount_minor": "100"},
]
DIRECTIONS = {"pi": "payin", "re": "refund", "po": "payout"}
ODDITIES: list[dict[str, str]] = [
    {"amount_minor": "1"},
    {"amount_minor": str(MINOR_MAX)},
    {"account_id": BOB},
    {"account_id": "external:stripe:USD"},
    {"provider": "adyen"},
    {"direction": "refund"},
    {"currency": "EUR"},
    {"metadata": "x"},
]
INSTANTS = [*[ABSENT] * 4, *(f"2026-02-11T00:00:0{second}.000Z" for second in range(4))]


def told_of(
    number: int, payment: dict[str, str], status: str, updated_at: object, odd: dict[str, str]
) -> IngestRequest:
    fields = {"direction": DIRECTIONS[payment["external_payment_id"][:2]], **payment, **odd}
    metadata = {"note": fields.pop("metadata")} if "metadata" in fields else ABSENT
    return request(
        f"k{number}", status=status, provider_updated_at=updated_at, metadata=metadata, **fields
    )


requests = st.builds(
    told_of,
    st.integers(min_value=0, max_value=99),
    st.sampled_from(PAYMENTS),
    st.sampled_from(["confirmed", "confirmed", "reversed", "failed", "pending"]),
    st.sampled_from(INSTANTS),
    st.one_of(st.just({}), st.just({}), st.just({}), st.sampled_from(ODDITIES)),
)
commands = st.lists(
    weighted((9, requests), (1, st.builds(OpenAccount, st.sampled_from(DIDS)))),
    min_size=20,
    max_size=60,
)
SIGN = {Direction.PAYIN: 1, Direction.REFUND: -1, Direction.PAYOUT: 0}


def check_effects(book: Book) -> None:
    """Each settlement has moved exactly what its status says, and each event type once."""
    moved: Counter[object] = Counter()
    written: Counter[tuple[object, EventType]] = Counter()
    for event in events_of(book):
        named = event.metadata["payment_settlement"]
        assert isinstance(named, Mapping)
        written[named["settlement_id"], event.event_type] += 1
        moved[named["settlement_id"]] += ACCOUNT_EFFECT[event.event_type] * event.amount_minor
    assert max(written.values(), default=1) == 1
    for settlement in book.known.settlements.values():
        confirmed = settlement.status is Status.CONFIRMED
        expected = SIGN[settlement.direction] * settlement.amount_minor if confirmed else 0
        assert moved[settlement.settlement_id] == expected


Answers = dict[str, tuple[str, Mapping[str, object]]]
"""The first answer under each key, with the hash of the request it was for."""


def attempt(book: Book, command: Command) -> Answer | ClawsettleError:
    try:
        return decide(book, command)
    except ClawsettleError as error:
        return error


def tell(book: Book, command: OpenAccount | IngestRequest, first: Answers) -> None:
    """Decide one command; a refusal leaves the book alone, a known key keeps its answer."""
    before = as_it_is(book)
    result = attempt(book, command)
    if isinstance(result, ClawsettleError):
        assert book == before
    if isinstance(command, OpenAccount):
        assert isinstance(result, Answer)
        assert result.body["did"] == command.did
    elif command.key in first:
        check_repeated(command, result, *first[command.key])
        assert book == before
    elif isinstance(result, Answer):
        first[command.key] = (command.request_hash, result.body)


def check_repeated(
    command: IngestRequest,
    result: Answer | ClawsettleError,
    first_hash: str,
    body: Mapping[str, object],
) -> None:
    if isinstance(result, ClawsettleError):
        assert result.code == "IDEMPOTENCY_KEY_REUSED"
        assert command.request_hash != first_hash
        return
    idempotency = body["idempotency"]
    assert isinstance(idempotency, Mapping)
    assert command.request_hash == first_hash
    assert result.body == {**body, "idempotency": {**idempotency, "replayed": True}}


@given(commands, st.integers(min_value=0, max_value=2))
@settings(deadline=None, max_examples=200)
def test_the_books_balance_after_any_sequence_of_requests(
    told: list[OpenAccount | IngestRequest], tick: int
) -> None:
    book = new_book(ALICE_DID, "did:key:Aa")
    fund(book, 90)
    first: Answers = {}
    for command in told:
        book.now += timedelta(milliseconds=tick)
        tell(book, command, first)
        check_effects(book)
    check_books(book)
    dids = [account.did for account in book.known.accounts.values() if account.did is not None]
    assert len(set(dids)) == len(dids), "one account a DID"


@given(st.lists(requests, min_size=5, max_size=15))
@settings(deadline=None, max_examples=100)
def test_a_sequence_told_twice_changes_nothing_the_second_time(told: list[IngestRequest]) -> None:
    book = new_book(ALICE_DID)
    accepted = [command for command in told if isinstance(attempt(book, command), Answer)]
    before = as_it_is(book)
    for command in accepted:
        assert not decide(book, command).created
    assert book == before
