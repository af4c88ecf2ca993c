"""The embedded ledger's one writer.

Owns: every change to the ledger's tables.
Guarantees: a batch of requests is one transaction under the lock on the journal's tail, so
requests see each other in order, on this daemon and on every other; an answer is given only after
its commit.
Stops: on ``close``, when what it was asked has been answered.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog
from attrs import define, field

from clawsettle.actors.batcher import Batcher
from clawsettle.domain.book import Answer, Book
from clawsettle.domain.errors import ClawsettleError, StorageError
from clawsettle.domain.forwarding import (
    Forwardable,
    LedgerOutcome,
    Refused,
    Unknown,
    available_minor,
    read_answer,
)
from clawsettle.domain.ledger import Command, decide
from clawsettle.domain.ledger_orders import (
    Applied,
    LedgerAccount,
    LedgerEvent,
    TransferOrder,
    TransferOutcome,
    applied,
    read_transfer,
    shown_account,
)
from clawsettle.domain.settlements import parse_ingest, parse_key
from clawsettle.domain.transfers import parse_transfer
from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.ledger_reader import LedgerReader

_log = structlog.get_logger(__name__)

Result = Answer | ClawsettleError
_CREATED, _REPEATED, _APPLIED = 201, 200, 200


def decide_all(book: Book, commands: Sequence[Command]) -> list[Result]:
    """Decide commands in order; a refused one changes nothing and does not stop the next."""
    results: list[Result] = []
    for command in commands:
        try:
            results.append(decide(book, command))
        except ClawsettleError as error:
            results.append(error)
    return results


@define(eq=False)
class LedgerKeeper:
    """See the module.

    ``batch_max`` bounds the commands of one commit, ``waiting_max`` those that wait. ``status_of``
    and ``transfer_status_of`` are the ledger port's own tables of statuses, for settlements and for
    transfers, so that a refusal looks the same from inside.
    """

    book: LedgerBook
    status_of: Callable[[ClawsettleError], int]
    transfer_status_of: Callable[[ClawsettleError], int]
    batch_max: int
    waiting_max: int
    name: str = field(default="ledger_keeper", init=False)
    repeats_safely: bool = field(default=True, init=False)
    _reader: LedgerReader = field(init=False)
    _batcher: Batcher[Sequence[Command], Sequence[Result]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = LedgerReader(self.book.database)
        self._batcher = Batcher(self.name, self._commit, self.batch_max, self.waiting_max, size=len)

    async def ask(self, command: Command) -> Answer:
        """Have one command decided and committed.

        Raises: what ``decide`` raises, Overloaded, StorageUnavailable (outcome unknown) or
        StorageError.
        """
        (result,) = await self.ask_all([command])
        if isinstance(result, ClawsettleError):
            raise result
        return result

    async def ask_all(self, commands: Sequence[Command]) -> Sequence[Result]:
        """Have commands decided in order within one commit; see ``ask`` for what is raised."""
        return await self._batcher.ask(commands)

    async def ingest(self, settlements: Sequence[Forwardable]) -> Sequence[LedgerOutcome]:
        """Record settlements, as the ledger's HTTP route would; see clients.ledger.Ledger."""
        parsed = [_parsed(settlement) for settlement in settlements]
        commands = [item for item in parsed if not isinstance(item, ClawsettleError)]
        answered = iter(await self.ask_all(commands) if commands else ())
        return [
            self._outcome(sent, item if isinstance(item, ClawsettleError) else next(answered))
            for sent, item in zip(settlements, parsed, strict=True)
        ]

    async def account(self, account_id: str) -> LedgerAccount | None:
        """Read an account, as the ledger's HTTP route would; see clients.ledger.Ledger."""
        found = await self._reader.account(account_id)
        return None if found is None else shown_account(found)

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        """Move an amount, as the ledger's HTTP route would; see clients.ledger.Ledger."""
        try:
            request = parse_transfer(order.body(), currency=self.book.currency)
            answer = await self.ask(request)
        except ClawsettleError as error:
            return _refusal(error, self.transfer_status_of)
        return read_transfer(_APPLIED, answer.body)

    async def transferred(self, order: TransferOrder) -> Applied | None:
        """Read the event under the order's key; see clients.ledger.Ledger."""
        found = await self._reader.event_by_key(order.key)
        return applied(order, None if found is None else LedgerEvent.of(found))

    async def events_by_key(self, keys: Sequence[str]) -> Mapping[str, LedgerEvent]:
        """Read events in one statement; see clients.ledger.Ledger."""
        found = await self._reader.events_by_key(keys)
        return {event.idempotency_key: LedgerEvent.of(event) for event in found}

    async def run(self) -> None:
        """Work until closed and drained."""
        await self._batcher.run()

    def close(self) -> None:
        """Take no more requests."""
        self._batcher.close()

    def statistics(self) -> dict[str, int]:
        """Return how many commands wait."""
        return self._batcher.statistics()

    def _outcome(self, sent: Forwardable, result: Result) -> LedgerOutcome:
        if isinstance(result, Answer):
            return read_answer(sent, _CREATED if result.created else _REPEATED, result.body)
        return _refusal(result, self.status_of)

    async def _commit(self, asked: Sequence[Sequence[Command]]) -> Sequence[Sequence[Result]]:
        """Commit a batch; what is asked alone and refused by storage is committed in parts."""
        commands = [command for one in asked for command in one]
        try:
            results = await self._apply(commands)
        except StorageError as error:
            if error.retryable or len(asked) > 1:
                raise
            results = [await self._apply_alone(command) for command in commands]
        answers = iter(results)
        return [[next(answers) for _ in one] for one in asked]

    async def _apply_alone(self, command: Command) -> Result:
        try:
            return (await self._apply([command]))[0]
        except StorageError as error:
            _log.exception("ledger_command_refused_by_storage")
            return error

    async def _apply(self, commands: Sequence[Command]) -> list[Result]:
        results = await self.book.apply(commands, partial(decide_all, commands=commands))
        _warn_of_undercuts(results)
        return results


def _refusal(
    error: ClawsettleError, status_of: Callable[[ClawsettleError], int]
) -> Refused | Unknown:
    if isinstance(error, StorageError):
        return Unknown(error.message)
    return Refused(
        status_of(error),
        f"{error.code}: {error.message}",
        error.code,
        available_minor(error.details),
    )


def _warn_of_undercuts(results: Sequence[Result]) -> None:
    for result in results:
        if isinstance(result, Answer) and result.undercut is not None:
            _log.warning(
                "ledger_reservations_undercut", event_id=result.body["event_id"], **result.undercut
            )


def _parsed(settlement: Forwardable) -> Command | ClawsettleError:
    try:
        return parse_ingest(parse_key(settlement.key), settlement.payload)
    except ClawsettleError as error:
        return error
