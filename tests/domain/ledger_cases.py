"""Requests to the ledger and books to try them on, for the ledger's tests."""

from collections import Counter
from datetime import UTC, datetime

from attrs import evolve

from clawsettle.domain.journal import (
    GENESIS_HASH,
    Account,
    AccountKind,
    Bucket,
    ChainCheck,
    Posting,
    Tail,
)
from clawsettle.domain.ledger import Answer, Book, OpenAccount, decide
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


def new_book(*dids: str) -> Book:
    """A book on genesis with these DIDs' accounts; Alice's and Bob's unless others are named."""
    book = Book(
        currency="USD",
        now=AT,
        tail=Tail(0, GENESIS_HASH, AT),
        accounts={},
        settlements={},
        answers={},
    )
    for did in dids or (ALICE_DID, BOB_DID):
        decide(book, OpenAccount(did))
    return book


def fund(book: Book, amount_minor: int, *, account_id: str = ALICE) -> None:
    """Give an account money by a payin that the test does not care about."""
    name = f"fund_{len(book.answers)}"
    decide(
        book,
        request(
            name, external_payment_id=name, account_id=account_id, amount_minor=str(amount_minor)
        ),
    )


def available(book: Book, account_id: str = ALICE) -> int:
    return book.accounts[account_id].balances[Bucket.AVAILABLE]


def event_types(book: Book, settlement_id: object) -> list[str]:
    """The types of a settlement's events, in the journal's order."""
    prefix = f"payment_settlement:{settlement_id}:"
    return [str(e.event_type) for e in book.events if e.idempotency_key.startswith(prefix)]


def settlement_of(answer: Answer) -> dict[str, object]:
    settlement = answer.body["settlement"]
    assert isinstance(settlement, dict)
    return settlement


def as_it_is(book: Book) -> Book:
    """A copy that later decisions cannot reach; records are immutable, so containers will do."""
    return evolve(
        book,
        accounts=dict(book.accounts),
        settlements=dict(book.settlements),
        answers=dict(book.answers),
        events=list(book.events),
        postings=list(book.postings),
        changed_accounts=set(book.changed_accounts),
        changed_settlements=set(book.changed_settlements),
        new_answers=list(book.new_answers),
    )


def check_books(book: Book) -> None:
    """Fail unless the book, whose whole history is in it, is sound."""
    chain = ChainCheck()
    chain.walk(book.events)
    assert chain.errors == []
    assert chain.count == len(book.events)
    assert book.tail.seq == len(book.events)
    assert book.tail.event_hash == (book.events[-1].event_hash if book.events else GENESIS_HASH)
    assert _sums(book.postings) == {}
    moved: Counter[tuple[str, Bucket]] = Counter()
    for posting in book.postings:
        moved[posting.account_id, posting.bucket] += posting.delta_minor
    for account in book.accounts.values():
        for bucket in Bucket:
            assert account.balances[bucket] == moved[account.account_id, bucket]
        if account.kind is AccountKind.USER:
            assert min(account.balances.values()) >= 0
    keys = [event.idempotency_key for event in book.events]
    assert len(set(keys)) == len(keys), "an effect was written twice"


def _sums(postings: list[Posting]) -> dict[int, int]:
    """The events whose postings do not sum to zero."""
    sums: Counter[int] = Counter()
    for posting in postings:
        sums[posting.seq] += posting.delta_minor
    return {seq: total for seq, total in sums.items() if total}


def held_account(account: Account, held_minor: int) -> Account:
    """The account with this much of another bucket than the available one."""
    return evolve(account, balances={**account.balances, Bucket.HELD: held_minor})
