"""A refund's payin and what of it was refunded, as they are loaded with the batch that asks."""

import trio

from clawsettle.domain.ingestion import receivable_account_id
from tests.domain.ledger_cases import ABSENT, ALICE, refund, request
from tests.storage.books import apply, available, codes, done, open_accounts, open_book, prove


async def test_every_batch_knows_what_was_refunded_before_it(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, request("k1"), request("other", external_payment_id="pi_2"))
        # None of these moves money of pi_1.
        await done(book, *(refund(f"re_{s}", 900, status=s) for s in ("pending", "failed")))
        await done(book, refund("re_other", 900, refund_of="pi_2"))
        await done(book, refund("re_1", 300))
        assert codes(await apply(book, refund("re_2", 300), refund("re_3", 401))) == [
            "created",
            "REFUND_EXCEEDS_PAYIN",
        ]
        assert codes(await apply(book, refund("re_3", 401))) == ["REFUND_EXCEEDS_PAYIN"]
        assert codes(await apply(book, request("k2", status="reversed"))) == [
            "REFUND_EXCEEDS_PAYIN"
        ]
        await done(book, refund("re_1", 300, status="reversed"))
        assert codes(await apply(book, refund("re_3", 401))) == ["created"]
        assert await available(book, ALICE) == 2000 - 900 - 300 - 401
        await prove(book)


async def test_a_step_of_a_refund_finds_the_payin_that_was_named_before(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, request("k1"))
        await done(book, refund("spent", 900, refund_of=ABSENT))
        await done(book, refund("re_1", 400, status="pending"))
        await done(book, refund("re_1", 400, refund_of=ABSENT))
        assert await available(book, receivable_account_id(ALICE)) == -300
        # And the debt is found by the next batch that brings money.
        await done(book, request("k2", external_payment_id="pi_2", amount_minor="350"))
        assert await available(book, receivable_account_id(ALICE)) == 0
        assert await available(book, ALICE) == 50
        await prove(book)


async def test_of_refunds_on_two_daemons_at_once_no_more_go_through_than_came_in(
    database_url: str,
) -> None:
    async with open_book(database_url) as one, open_book(database_url) as other:
        await open_accounts(one)
        await done(one, request("k1"), request("k2", external_payment_id="pi_2"))
        outcomes: list[str] = []

        async def tell(number: int) -> None:
            book = (one, other)[number % 2]
            outcomes.extend(codes(await apply(book, refund(f"re_{number}", 300))))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(tell, number)
        assert sorted(outcomes) == ["REFUND_EXCEEDS_PAYIN"] * 5 + ["created"] * 3
        assert await available(one, ALICE) == 2000 - 3 * 300
        await prove(one)
