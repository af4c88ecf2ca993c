"""A book in which everything that a ledger can write has been written, in a real database."""

from collections.abc import Mapping, Sequence
from functools import partial

from clawsettle.domain.accounts import AccountRef, account_ids, clearing_ids
from clawsettle.domain.ledger import Command, OpenAccount, OpenClearing, decide
from clawsettle.domain.proof import BookItem
from clawsettle.domain.risk_holds import parse_apply_hold, parse_release_by_source
from clawsettle.domain.settlements import parse_ingest
from clawsettle.domain.transfers import parse_transfer
from clawsettle.storage.bridge import open_database
from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.ledger_reader import LedgerReader

ALICE, BOB, CAROL = "did:key:alice", "did:key:bob", "did:key:carol"
ALICE_ID, BOB_ID, CAROL_ID = (account_ids(did)[0] for did in (ALICE, BOB, CAROL))
PAYOUTS_ID = clearing_ids("clawsettle.payouts")[0]
WEIRD = 'ümläut 中文 🦀 \u2028 \u202e "quoted" \\back\\ \t\n {"reservation":{"opened":"payout"}}'
METADATA = {"note": WEIRD, "reservation": {"closed": "payout"}, WEIRD: [1.5e-7, -0.0, None, 10**30]}


def settled(
    name: str,
    direction: str,
    status: str,
    amount_minor: int,
    *,
    did: str = ALICE,
    **other: object,
) -> Command:
    """A settlement under a key of its own."""
    body = {
        "provider": "stripe",
        "external_payment_id": name,
        "direction": direction,
        "status": status,
        "account_id": account_ids(did)[0],
        "amount_minor": str(amount_minor),
        "currency": "USD",
        **other,
    }
    return parse_ingest(f"{name}:{status}", body)


def moved(
    key: str,
    source: tuple[str, str],
    destination: tuple[str, str],
    amount_minor: int,
    metadata: Mapping[str, object] | None = None,
) -> Command:
    """A transfer between two pairs of account and bucket."""
    body = {
        "idempotency_key": key,
        "currency": "USD",
        "from": {"account": source[0], "bucket": source[1]},
        "to": {"account": destination[0], "bucket": destination[1]},
        "amount_minor": str(amount_minor),
        "metadata": metadata or {},
    }
    return parse_transfer(body, currency="USD")


def held(key: str, did: str, amount_minor: int, metadata: Mapping[str, object]) -> Command:
    """A risk hold for a loss event of the key's name."""
    body = {
        "idempotency_key": key,
        "source_loss_event_id": f"loss_{key}",
        "account": did,
        "amount_minor": str(amount_minor),
        "reason": f"chargeback {WEIRD}",
        "metadata": metadata,
    }
    return parse_apply_hold(body, currency="USD")


def released(key: str, source: str) -> Command:
    body = {"idempotency_key": key, "source_loss_event_id": source, "reason": "won"}
    return parse_release_by_source(body)


PAYOUTS = "clearing:clawsettle.payouts"
HISTORY: Sequence[Command] = (
    *(OpenAccount(did) for did in (ALICE, BOB, CAROL)),
    OpenClearing(AccountRef(PAYOUTS, (PAYOUTS_ID,), domain="clawsettle.payouts"), "Payouts"),
    settled("pi_1", "payin", "confirmed", 10_000, metadata=METADATA),
    settled("pi_2", "payin", "pending", 700),
    settled("pi_2", "payin", "confirmed", 700),
    settled("pi_2", "payin", "reversed", 700),
    settled("pi_3", "payin", "confirmed", 900, did=BOB, provider="adyen"),
    settled("re_1", "refund", "confirmed", 250, refund_of="pi_1"),
    settled("re_1", "refund", "reversed", 250, refund_of="pi_1"),
    settled("po_1", "payout", "confirmed", 400),
    settled("po_1", "payout", "reversed", 400),
    moved("t1", (ALICE, "A"), (BOB, "A"), 300, METADATA),
    moved("t2", (ALICE, "A"), (ALICE, "B"), 40),
    moved("t3", (ALICE, "A"), ("clearing:fees " + WEIRD[:20].strip(), "F"), 5),
    moved("t4", (BOB, "A"), (BOB, "P"), 7),
    moved("payout:lock:1", (ALICE, "A"), (ALICE, "H"), 1200),
    moved("payout:finalize:1", (ALICE, "H"), (PAYOUTS, "A"), 1200),
    moved("payout:lock:2", (ALICE, "A"), (ALICE, "H"), 800),
    moved("payout:rollback:2", (ALICE, "H"), (ALICE, "A"), 800),
    moved("payout:lock:3", (ALICE, "A"), (ALICE, "H"), 500),
    held("h1", ALICE, 60, METADATA),
    released("r1", "loss_h1"),
    held("h2", BOB, 70, {"reason": "the caller's", "source_domain": "elsewhere", "x": [{}]}),
    moved("undercut", (BOB, "H"), (BOB, "A"), 50),
    moved("empty", (ALICE, "A"), (BOB, "A"), 6000),
    settled("re_2", "refund", "confirmed", 9000, refund_of="pi_1"),
    settled("pi_4", "payin", "confirmed", 1000),
)


async def write_history(database_url: str, history: Sequence[Command] = HISTORY) -> None:
    """Apply the history one command a batch, so that each has an instant of its own."""
    async with open_database(database_url, pool_max=1) as database:
        book = LedgerBook(database, "USD")
        for command in history:
            await book.apply([command], partial(decide, command=command))


async def read_book(database_url: str) -> list[BookItem]:
    """Return all records of a book, as a proof is shown them."""
    items: list[BookItem] = []
    async with open_database(database_url, pool_max=1) as database:
        await LedgerReader(database).read_whole(items.extend)
    return items
