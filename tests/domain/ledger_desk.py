"""A ledger's book in memory, asked as its port is, and what it says compared with the model."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta

import pytest
from attrs import define, field

from clawsettle.domain.book import Answer, Book, RiskHold
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.journal import Account, AccountKind, Event
from clawsettle.domain.ledger import decide
from clawsettle.domain.settlements import Settlement
from clawsettle.domain.transfers import BUCKETS
from tests.domain.ledger_cases import as_it_is, check_books, empty_book
from tests.domain.ledger_model import LedgerModel
from tests.domain.ledger_requests import ALICE, Asked, Route, command, open_account


def verdict(answer: Answer | ClawsettleError) -> str:
    """Return what became of a request, as the model says it."""
    if isinstance(answer, ClawsettleError):
        return answer.code
    if answer.undercut is not None:
        return "undercut"
    return "created" if answer.created else "repeated"


@define
class Answers:
    """What a caller was told so far: repetitions must tell the same, and holds have ids."""

    first: dict[tuple[Route, str], Mapping[str, object]] = field(factory=dict)
    hold_ids: dict[str, str] = field(factory=dict)

    def take(self, asked: Asked, answer: Answer | ClawsettleError) -> str:
        """Return what became of a request; fail if a repetition is answered differently."""
        if isinstance(answer, ClawsettleError):
            return verdict(answer)
        key = asked.key or str(asked.body.get("idempotency_key", ""))
        said = answer.body
        if asked.route is Route.INGEST:
            said = {name: value for name, value in said.items() if name != "idempotency"}
        elif "hold" in said:
            hold = said["hold"]
            assert isinstance(hold, Mapping)
            said = {"hold_id": hold["hold_id"]}
            if asked.route is Route.APPLY_HOLD:
                self.hold_ids[key] = str(hold["hold_id"])
            key += asked.applied_under + str(asked.body.get("source_loss_event_id", ""))
        if key:
            assert self.first.setdefault((asked.route, key), said) == said
        return verdict(answer)


@define
class Desk:
    """A book, and what its callers were told; Alice has an account from the start."""

    book: Book = field(factory=empty_book)
    answers: Answers = field(factory=Answers)

    def __attrs_post_init__(self) -> None:
        self.ask(open_account(ALICE))

    def ask(self, *requests: Asked) -> Answer:
        """Have requests decided of which none is refused; return the last answer."""
        for asked in requests:
            answer = decide(self.book, command(asked, self.answers.hold_ids))
            self.answers.take(asked, answer)
        return answer

    def attempt(self, asked: Asked) -> str:
        """Return what becomes of a request, as ``Answers.take`` has it."""
        try:
            answer = decide(self.book, command(asked, self.answers.hold_ids))
        except ClawsettleError as error:
            return self.answers.take(asked, error)
        return self.answers.take(asked, answer)

    def refused(self, asked: Asked) -> ClawsettleError:
        """Return why a request is refused; fail if it is not, or leaves a trace."""
        before = as_it_is(self.book)
        with pytest.raises(ClawsettleError) as caught:
            decide(self.book, command(asked, self.answers.hold_ids))
        assert self.book == before
        return caught.value

    def later(self) -> None:
        """Let a millisecond pass."""
        self.book.now += timedelta(milliseconds=1)

    def stands(self, account_id: str) -> str:
        """Return an account's balances that are not zero, such as ``A70 H30``."""
        balances = self.book.known.accounts[account_id].balances
        return " ".join(
            f"{c}{balances[bucket]}" for c, bucket in BUCKETS.items() if balances[bucket]
        )

    def reserved(self, account_id: str) -> int:
        return self.book.known.accounts[account_id].reserved_minor

    def event(self, key: str) -> Event:
        return self.book.known.events[key]

    def prove(self) -> None:
        """Fail unless the whole book follows from its journal."""
        check_books(self.book)


def check_against_model(
    model: LedgerModel,
    accounts: Iterable[Account],
    settlements: Iterable[Settlement],
    holds: Iterable[RiskHold],
) -> None:
    """Fail unless these are all the records of a ledger that stands where the model does."""
    names = {one.account_id: one.did or f"clearing:{one.domain}" for one in accounts}
    balances: dict[str, Mapping[str, int]] = {}
    outside: Counter[str] = Counter()
    owed: Counter[str] = Counter()
    for one in accounts:
        kind, _, rest = one.account_id.partition(":")
        of, _, account_id = rest.partition(":")
        if one.kind is not AccountKind.EXTERNAL:
            told = {letter: one.balances[bucket] for letter, bucket in BUCKETS.items()}
            balances[names[one.account_id]] = {**told, "reserved": one.reserved_minor}
        elif of == "receivable":
            owed[names[account_id]] = -one.total_minor
        else:
            assert (kind, account_id) == ("external", "USD")
            outside[of] = -one.total_minor
    assert balances == {
        name: {letter: known[letter] for letter in BUCKETS} | {"reserved": model.reserved(name)}
        for name, known in model.balances.items()
    }
    assert outside == model.outside
    assert owed == model.owed
    assert sum(sum(one[letter] for letter in BUCKETS) for one in balances.values()) == (
        outside.total() + owed.total()
    )
    assert {one.natural_key: _facts(one, names) for one in settlements} == {
        name: (one.status, one.account, one.amount, one.refund_of)
        for name, one in model.settlements.items()
    }
    assert {
        one.idempotency_key: (
            one.source_loss_event_id,
            names[one.account_id],
            one.amount_minor,
            one.release_idempotency_key,
        )
        for one in holds
    } == {
        key: (one.source, one.account, one.amount, one.release_key)
        for key, one in model.holds.items()
    }


def _facts(one: Settlement, names: Mapping[str, str]) -> tuple[object, ...]:
    return (one.status, names[one.account_id], one.amount_minor, one.refund_of)
