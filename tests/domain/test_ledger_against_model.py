"""The ledger's decisions and the plain model say the same of any sequence of requests."""

from hypothesis import event, given, settings

from tests.domain.ledger_desk import Desk, check_against_model, copied
from tests.domain.ledger_model import LedgerModel
from tests.domain.ledger_requests import ALICE, PROLOGUE, Asked, histories, open_account

CHANGED = ("created", "undercut")


@settings(deadline=None, max_examples=200)
@given(history=histories)
def test_the_book_stands_where_the_model_does(history: list[Asked]) -> None:
    desk, model = Desk(), LedgerModel()
    model.ask(open_account(ALICE))
    for asked in (*PROLOGUE, *history):
        before = copied(desk.book.known)
        became = desk.attempt(asked)
        event(f"{asked.route}: {became}")
        assert became == model.ask(asked), asked
        known = desk.book.known
        if became not in (*CHANGED, "repeated"):
            assert known == before, "a refused request left a trace"
        assert known.events.keys() >= before.events.keys()
        check_against_model(
            model,
            list(known.accounts.values()),
            known.settlements.values(),
            known.holds.values(),
        )
        desk.later()
    desk.prove()
