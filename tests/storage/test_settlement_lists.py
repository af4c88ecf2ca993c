"""Lists of settlements: one total order, exact filters, and pages that miss and repeat nothing."""

from datetime import datetime

from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.ledger_reader import SettlementFilter
from tests.domain.ledger_cases import ALICE, BOB, request
from tests.storage.books import done, open_accounts, open_book, reading


async def stock(book: LedgerBook) -> None:
    """Record 21 settlements in three commits: within a commit all have one ``created_at``."""
    await open_accounts(book)
    for commit in range(3):
        await done(
            book,
            *(
                request(
                    f"k{commit}_{n}",
                    external_payment_id=f"p{commit}_{n}",
                    provider=("stripe", "adyen")[n % 2],
                    direction=("payin", "payout", "payin")[n % 3],
                    status=("pending", "confirmed")[commit % 2],
                    account_id=(ALICE, BOB)[n // 4],
                )
                for n in range(7)
            ),
        )


async def ids(
    book: LedgerBook,
    narrow: SettlementFilter,
    after: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> list[str]:
    found = await reading(book).list_settlements(narrow, after=after, limit=limit)
    return [settlement.settlement_id for settlement in found]


async def test_the_list_is_newest_first_with_the_id_as_tie_break(database_url: str) -> None:
    async with open_book(database_url) as book:
        assert await ids(book, SettlementFilter()) == []
        await stock(book)
        found = await reading(book).list_settlements(SettlementFilter(), after=None, limit=100)
        order = [(settlement.created_at, settlement.settlement_id) for settlement in found]
        assert len(order) == 21
        assert order == sorted(order, reverse=True)
        assert len({created_at for created_at, _ in order}) <= 3, "there must be ties"


async def test_pages_over_equal_instants_miss_nothing_and_repeat_nothing(
    database_url: str,
) -> None:
    async with open_book(database_url) as book:
        await stock(book)
        whole = await ids(book, SettlementFilter())
        for limit in (1, 2, 5, 7, 20, 21, 22):
            paged: list[str] = []
            after = None
            while page := await reading(book).list_settlements(
                SettlementFilter(), after=after, limit=limit
            ):
                assert len(page) <= limit
                assert len(paged) < len(whole), "a page came twice"
                paged += [settlement.settlement_id for settlement in page]
                after = (page[-1].created_at, page[-1].settlement_id)
            assert paged == whole, f"in pages of {limit}"


async def test_a_page_goes_on_past_its_cursor_when_newer_rows_have_come(database_url: str) -> None:
    async with open_book(database_url) as book:
        await stock(book)
        whole = await ids(book, SettlementFilter())
        page = await reading(book).list_settlements(SettlementFilter(), after=None, limit=10)
        await done(book, request("late", external_payment_id="late"))
        after = (page[-1].created_at, page[-1].settlement_id)
        assert await ids(book, SettlementFilter(), after) == whole[10:]


async def test_each_filter_is_exact_and_they_narrow_together(database_url: str) -> None:
    narrows = [
        SettlementFilter(account_id=ALICE),
        SettlementFilter(account_id=BOB),
        SettlementFilter(account_id="acc_nobody"),
        SettlementFilter(status="pending"),
        SettlementFilter(status="confirmed"),
        SettlementFilter(status="reversed"),
        SettlementFilter(provider="stripe"),
        SettlementFilter(provider="strip"),
        SettlementFilter(direction="payin"),
        SettlementFilter(direction="refund"),
        SettlementFilter(ALICE, "confirmed", "stripe", "payin"),
        SettlementFilter(BOB, "pending", "adyen", "payout"),
    ]
    async with open_book(database_url) as book:
        await stock(book)
        whole = await reading(book).list_settlements(SettlementFilter(), after=None, limit=100)
        counts = []
        for narrow in narrows:
            expected = [
                settlement.settlement_id
                for settlement in whole
                if narrow.account_id in (None, settlement.account_id)
                and narrow.status in (None, settlement.status)
                and narrow.provider in (None, settlement.provider)
                and narrow.direction in (None, settlement.direction)
            ]
            assert await ids(book, narrow) == expected, narrow
            assert await ids(book, narrow, limit=2) == expected[:2], narrow
            counts.append(len(expected))
        assert counts == [12, 9, 0, 14, 7, 0, 12, 0, 15, 0, 2, 0]
