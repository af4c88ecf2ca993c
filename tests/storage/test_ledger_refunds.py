"""What a database adds to refunds: their sum is loaded with the payin they name."""

from functools import partial

from clawsettle.actors.ledger_keeper import decide_all
from clawsettle.domain.money import MINOR_MAX
from clawsettle.storage.bridge import open_database
from clawsettle.storage.ledger_book import LedgerBook
from tests.domain.ledger_desk import verdict
from tests.domain.ledger_requests import ALICE, Asked, command, open_account, settled


def in_and_out(number: int) -> list[Asked]:
    """The largest amount there is comes in and leaves as a refund of a payin that nobody knows."""
    return [
        settled(f"in{number}", f"pi_{number}", "payin", MINOR_MAX),
        settled(f"out{number}", f"re_{number}", "refund", MINOR_MAX, refund_of="pi_later"),
    ]


async def test_refunds_may_sum_to_more_than_an_amount_can_be(database_url: str) -> None:
    history = [
        open_account(ALICE),
        *in_and_out(1),
        *in_and_out(2),
        settled("k", "pi_later", "payin", MINOR_MAX),
        settled("r", "re_3", "refund", 1, refund_of="pi_later"),
    ]
    async with open_database(database_url, pool_max=1) as database:
        book = LedgerBook(database, "USD")
        told = []
        for asked in history:
            one = [command(asked, {})]
            told += await book.apply(one, partial(decide_all, commands=one))
    assert [verdict(result) for result in told] == ["created"] * 6 + ["REFUND_EXCEEDS_PAYIN"]
