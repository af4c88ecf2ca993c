"""Requests to the ledger and books to try them on, for the ledger's tests."""

from datetime import UTC, datetime

from attrs import evolve

from clawsettle.domain.book import Answer, Book, Records
from clawsettle.domain.journal import GENESIS_HASH, Account, Bucket, Event, Posting, Tail
from clawsettle.domain.ledger import OpenAccount, decide
from clawsettle.domain.proof import Proof
from clawsettle.domain.settlements import IngestRequest, parse_ingest

AT = datetime(2026, 2, 11, tzinfo=UTC)
ALICE_DID, ALICE = "did:key:alice", "acc_32ca986a"
BOB_DID, BOB = "did:key:bob", "acc_61720de1"
STRIPE_USD = "external:stripe:USD"
ABSENT = object()

BODY: dict[str, object] = {
    "provider": "stripe",
    "external_payment_id": "pi_1",
    "direction": "payin",
    "status": "confirmed",
    "account_id": ALICE,
    "amount_minor": "1000",
    "currency": "USD",
}


def body(**changed: object) -> dict[str, object]:
    """An ingest body with some fields replaced or taken away."""
    fields = {**BODY, **changed}
    return {name: value for name, value in fields.items() if value is not ABSENT}


def request(key: str, **changed: object) -> IngestRequest:
    """A confirmed payin of 1000 USD to Alice, with some fields replaced or taken away."""
    return parse_ingest(key, body(**changed))


def refund(name: str, amount_minor: int, **changed: object) -> IngestRequest:
    """A confirmed refund of Alice's payin pi_1, under an external id of its own."""
    fields: dict[str, object] = {
        "external_payment_id": name,
        "direction": "refund",
        "amount_minor": str(amount_minor),
        "refund_of": "pi_1",
        **changed,
    }
    return request(f"{name}:{fields.get('status')}", **fields)


def empty_book(*, strict: bool = False) -> Book:
    """The book of a ledger that nobody has asked anything yet."""
    return Book("USD", AT, Tail(0, GENESIS_HASH, GENESIS_HASH, AT), Records(), strict)


def new_book(*dids: str) -> Book:
    """A book on genesis with these DIDs' accounts; Alice's and Bob's unless others are named."""
    book = empty_book()
    for did in dids or (ALICE_DID, BOB_DID):
        decide(book, OpenAccount(did))
    return book


def fund(book: Book, amount_minor: int, *, account_id: str = ALICE) -> None:
    """Give an account money by a payin that the test does not care about."""
    name = f"fund_{len(book.known.answers)}"
    decide(
        book,
        request(
            name, external_payment_id=name, account_id=account_id, amount_minor=str(amount_minor)
        ),
    )


def available(book: Book, account_id: str = ALICE) -> int:
    return book.known.accounts[account_id].balances[Bucket.AVAILABLE]


def events_of(book: Book) -> list[Event]:
    """The journal, in its order."""
    return list(book.known.events.values())


def postings_of(book: Book) -> list[Posting]:
    """The legs of all events."""
    return [posting for event in events_of(book) for posting in event.postings]


def event_types(book: Book, settlement_id: object) -> list[str]:
    """The types of a settlement's events, in the journal's order."""
    prefix = f"payment_settlement:{settlement_id}:"
    found = [e for e in events_of(book) if e.idempotency_key.startswith(prefix)]
    return [str(event.event_type) for event in found]


def settlement_of(answer: Answer) -> dict[str, object]:
    settlement = answer.body["settlement"]
    assert isinstance(settlement, dict)
    return settlement


def as_it_is(book: Book) -> Book:
    """A copy that later decisions cannot reach; records are immutable, so containers will do."""
    known, changed = Records(), Records()
    known.take(book.known)
    changed.take(book.changed)
    return evolve(book, known=known, changed=changed)


def check_books(book: Book) -> None:
    """Fail unless the book, whose whole history is in it, follows from its journal."""
    proof = Proof()
    for records in (
        book.known.events,
        book.known.accounts,
        book.known.reservations,
        book.known.holds,
    ):
        proof.take(records.values())
    proof.take([book.tail])
    proof.finish()
    assert proof.errors == []
    assert [event.seq for event in events_of(book)] == list(range(1, book.tail.seq + 1))


def held_account(account: Account, held_minor: int) -> Account:
    """The account with this much of another bucket than the available one."""
    return evolve(account, balances={**account.balances, Bucket.HELD: held_minor})
