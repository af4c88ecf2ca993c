"""Many writers on two daemons: one chain, exact balances, one effect a payment and a key."""

from collections import Counter
from collections.abc import Sequence

import trio

from clawsettle.actors.ledger_keeper import Result
from clawsettle.domain.ledger import Command, OpenAccount
from tests.domain.ledger_cases import ALICE, ALICE_DID, BOB, STRIPE_USD, request
from tests.storage.books import apply, available, codes, open_accounts, open_book, prove


async def together(url: str, batches: Sequence[Sequence[Command]]) -> list[list[Result]]:
    """Apply all batches at the same time, shared out over two daemons."""
    results: dict[int, list[Result]] = {}
    async with open_book(url) as one, open_book(url) as other:

        async def write(number: int) -> None:
            results[number] = await apply((one, other)[number % 2], *batches[number])

        async with trio.open_nursery() as nursery:
            for number in range(len(batches)):
                nursery.start_soon(write, number)
    return [results[number] for number in range(len(batches))]


async def test_twenty_writers_leave_one_chain_and_exact_balances(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        batches: list[list[Command]] = []
        for writer in range(20):
            batch: list[Command] = []
            for number in range(3):
                name = f"pi_{writer}_{number}"
                account_id = (ALICE, BOB)[number % 2]
                batch.append(request(name, external_payment_id=name, account_id=account_id))
            taken = f"re_{writer}"
            batch.append(
                request(taken, external_payment_id=taken, direction="refund", amount_minor="250")
            )
            batches.append(batch)
        results = await together(database_url, batches)
        assert {code for batch_results in results for code in codes(batch_results)} == {"created"}
        events = await prove(book)
        assert [event.seq for event in events] == list(range(1, 81))
        assert await available(book, ALICE) == 20 * (2 * 1000 - 250)
        assert await available(book, BOB) == 20 * 1000
        assert await available(book, STRIPE_USD) == -20 * (3 * 1000 - 250)


async def test_parallel_spenders_of_one_balance_do_not_spend_it_twice(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        await apply(book, request("fund", external_payment_id="fund", amount_minor="250"))
        spends: list[list[Command]] = [
            [
                request(
                    f"k{n}", external_payment_id=f"re_{n}", direction="refund", amount_minor="100"
                )
            ]
            for n in range(12)
        ]
        results = await together(database_url, spends)
        told = Counter(code for batch_results in results for code in codes(batch_results))
        assert told == {"created": 2, "INSUFFICIENT_FUNDS": 10}
        assert await available(book, ALICE) == 50
        assert len(await prove(book)) == 3


async def test_parallel_requests_for_one_payment_have_one_effect(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        for status, balance in (("confirmed", 777), ("reversed", 0)):
            batches: list[list[Command]] = [
                [request(f"{status}_{n}", status=status, amount_minor="777")] for n in range(12)
            ]
            results = await together(database_url, batches)
            told = Counter(code for batch_results in results for code in codes(batch_results))
            assert told == {"created": 1, "repeated": 11}
            assert await available(book, ALICE) == balance
        assert [event.event_type for event in await prove(book)] == [
            "payin_settle",
            "payin_reverse",
        ]


async def test_parallel_requests_under_one_key_have_one_answer(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        same: list[list[Command]] = [[request("k1")] for _ in range(8)]
        another: list[list[Command]] = [
            [request("k1", external_payment_id="pi_2")] for _ in range(4)
        ]
        results = await together(database_url, [*same, *another])
        told = [code for batch_results in results for code in codes(batch_results)]
        first, second = Counter(told[:8]), Counter(told[8:])
        won, lost = (first, second) if first["created"] else (second, first)
        assert won["created"] == 1
        assert won["repeated"] == won.total() - 1
        assert lost == {"IDEMPOTENCY_KEY_REUSED": lost.total()}
        assert len(await prove(book)) == 1


async def test_parallel_first_uses_of_a_did_open_one_account(database_url: str) -> None:
    async with open_book(database_url) as book:
        opens: list[list[Command]] = [[OpenAccount(ALICE_DID)] for _ in range(8)]
        collisions: list[list[Command]] = [
            [OpenAccount("did:key:Aa"), OpenAccount("did:key:BB")],
            [OpenAccount("did:key:BB"), OpenAccount("did:key:Aa")],
        ]
        results = await together(database_url, [*opens, *collisions])
        told = Counter(code for batch_results in results for code in codes(batch_results))
        assert told == {"created": 3, "repeated": 9}
        rows = await book.database.fetch("SELECT did FROM ledger_account ORDER BY did")
        assert [row["did"] for row in rows] == ["did:key:Aa", "did:key:BB", ALICE_DID]
