"""The ledger's decisions and the plain model say the same of any sequence of requests."""

from hypothesis import event, given, settings

from tests.domain.ledger_cases import as_it_is
from tests.domain.ledger_desk import Desk, check_against_model
from tests.domain.ledger_model import LedgerModel
from tests.domain.ledger_requests import ALICE, PROLOGUE, Asked, histories, open_account


@settings(deadline=None, max_examples=200)
@given(history=histories)
def test_the_book_stands_where_the_model_does(history: list[Asked]) -> None:
    desk, model = Desk(), LedgerModel()
    model.ask(open_account(ALICE))
    for asked in (*PROLOGUE, *history):
        before = as_it_is(desk.book)
        became = desk.attempt(asked)
        event(f"{asked.route}: {became}")
        assert became == model.ask(asked), asked
        if became not in ("created", "undercut", "repeated"):
            assert desk.book == before, "a refused request left a trace"
        known = desk.book.known
        check_against_model(
            model,
            list(known.accounts.values()),
            known.settlements.values(),
            known.holds.values(),
        )
        desk.later()
    desk.prove()
