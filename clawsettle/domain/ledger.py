"""The ledger's commands: what each needs of the book, and the decision that each stands for.

Nothing here or below does I/O: storage loads what ``needs`` names and stores what the book says
has changed. Requests of a batch are decided in order and see each other's effects.
Source: ledger-api contract sections 3 to 9 and 11.
"""

from collections.abc import Sequence

from attrs import Factory, define, frozen

from clawsettle.domain.accounts import AccountRef, account_ids
from clawsettle.domain.book import Answer, Book, Draft
from clawsettle.domain.ingestion import external_account_id, ingest, receivable_account_id
from clawsettle.domain.risk_holds import ApplyHold, ReleaseHold, apply_hold, release_hold
from clawsettle.domain.settlements import Direction, IngestRequest, NaturalKey
from clawsettle.domain.transfers import TransferRequest, payout_reservation_id, transfer


@frozen
class OpenAccount:
    """Ask for a DID's account, which is opened unless it exists."""

    did: str


@frozen
class OpenClearing:
    """Ask for a domain's clearing account, which is opened unless it exists; names are kept."""

    ref: AccountRef
    name: str


Command = OpenAccount | OpenClearing | IngestRequest | TransferRequest | ApplyHold | ReleaseHold


@define
class Needs:
    """What a batch may look at: storage loads it, and with a hold its account and reservation.

    ``refund_links`` are provider and external id of payins whose refunds count.
    """

    account_ids: set[str] = Factory(set)
    natural_keys: set[NaturalKey] = Factory(set)
    answer_keys: list[str] = Factory(list)
    event_keys: list[str] = Factory(list)
    reservation_ids: list[str] = Factory(list)
    refund_links: set[tuple[str, str]] = Factory(set)
    hold_keys: list[str] = Factory(list)
    hold_sources: list[str] = Factory(list)
    hold_ids: list[str] = Factory(list)


def needs(commands: Sequence[Command]) -> Needs:
    """Return what has to be loaded before ``commands`` can be decided."""
    found = Needs()
    for command in commands:
        match command:
            case TransferRequest():
                _transfer_needs(found, command)
            case IngestRequest():
                _ingest_needs(found, command)
            case OpenAccount():
                found.account_ids.update(account_ids(command.did))
            case OpenClearing():
                found.account_ids.update(command.ref.account_ids)
            case ApplyHold():
                found.account_ids.update(command.ref.account_ids if command.ref else ())
                found.hold_keys.append(command.key)
                found.hold_sources.append(command.source_loss_event_id)
            case ReleaseHold(hold_id=None):
                found.hold_sources.append(command.source_loss_event_id or "")
            case ReleaseHold():
                found.hold_ids.append(command.hold_id or "")
    return found


def decide(book: Book, command: Command) -> Answer:
    """Apply one command to the book, or raise and leave the book as it was.

    Raises: CallerError INVALID_ACCOUNT, UNSUPPORTED_CURRENCY or INVALID_REQUEST (a transfer to
    where it comes from), NotFoundError for what must exist, IllegalTransition, and ConflictError
    IDEMPOTENCY_KEY_REUSED, DUPLICATE_CONFLICT, REFUND_EXCEEDS_PAYIN, INSUFFICIENT_FUNDS,
    BALANCE_LIMIT_EXCEEDED, CONFLICT (a payout's reservation), SOURCE_LOSS_EVENT_ALREADY_BOUND,
    IDEMPOTENCY_CONFLICT, RISK_HOLD_RELEASE_FAILED or CREATE_FAILED.
    """
    draft = Draft(book, book.tail)
    match command:
        case TransferRequest():
            answer = transfer(draft, command)
        case IngestRequest():
            answer = ingest(draft, command)
        case OpenAccount():
            ref = AccountRef(command.did, account_ids(command.did), did=command.did)
            account = draft.find_or_open(ref)
            answer = Answer(created=bool(draft.fresh.accounts), body=account.view())
        case OpenClearing():
            account = draft.find_or_open(command.ref, name=command.name)
            answer = Answer(created=bool(draft.fresh.accounts), body=account.clearing_view())
        case ApplyHold():
            answer = apply_hold(draft, command)
        case ReleaseHold():
            answer = release_hold(draft, command)
    draft.accept()
    return answer


def _transfer_needs(found: Needs, request: TransferRequest) -> None:
    found.event_keys.append(request.key)
    for side in (request.source, request.destination):
        if side.ref is not None:
            found.account_ids.update(side.ref.account_ids)
    if request.payout_id is not None:
        found.reservation_ids.append(payout_reservation_id(request.payout_id))


def _ingest_needs(found: Needs, request: IngestRequest) -> None:
    found.answer_keys.append(request.key)
    found.natural_keys.add(request.natural_key)
    found.account_ids |= {
        request.account_id,
        receivable_account_id(request.account_id),
        external_account_id(request.provider, request.currency),
    }
    if request.direction is Direction.PAYIN:
        found.refund_links.add((request.provider, request.external_payment_id))
    elif request.refund_of is not None:
        found.refund_links.add((request.provider, request.refund_of))
