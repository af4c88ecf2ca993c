"""What payouts rely on, of every ledger: in process, over HTTP, and through faults."""

from functools import partial

import pytest
import trio
from attrs import evolve

from clawsettle.domain.forwarding import Refused
from clawsettle.domain.ledger_orders import (
    AnotherTransfer,
    Applied,
    LedgerAccount,
    LedgerEvent,
    TransferOutcome,
)
from clawsettle.domain.transfers import Side
from tests.clients.ledgers import ALICE, ALICE_DID, LEDGERS, Far, Open, order, sent
from tests.storage.deliveries import held, wait_for_locks

pytestmark = pytest.mark.parametrize("open_ledger", LEDGERS.values(), ids=LEDGERS)


async def fund(far: Far, amount_minor: int = 5000) -> None:
    """Open Alice's account with money of its own."""
    await far.house.open_account()
    await far.one(sent(amount_minor=str(amount_minor)))


def applied(outcome: TransferOutcome | None) -> str:
    assert isinstance(outcome, Applied), outcome
    return outcome.event_id


def refused(outcome: TransferOutcome) -> tuple[object, ...]:
    assert isinstance(outcome, Refused), outcome
    return outcome.ledger_status, outcome.code, outcome.available_minor, outcome.final


async def holds(far: Far, account_id: str = ALICE) -> tuple[int, int]:
    """What an account has available and held."""
    account = await far.account(account_id)
    assert account is not None
    return account.available_minor, account.held_minor


async def paid_out(far: Far) -> int:
    answer = await far.house.ledger.get("/clearing/accounts/domain/clawsettle.payouts")
    return int(answer.json()["balances"]["available"])


async def test_an_account_is_read_as_it_stands(open_ledger: Open, database_url: str) -> None:
    async with open_ledger(database_url) as far:
        assert await far.account() is None
        await fund(far)
        assert await far.account() == LedgerAccount(ALICE, ALICE_DID, 5000, 0)


async def test_the_ledgers_own_accounts_are_nobodys(open_ledger: Open, database_url: str) -> None:
    async with open_ledger(database_url) as far:
        await fund(far)
        assert await far.account("external:stripe:USD") is None
        assert await far.account("acc/../acc?#") is None


async def test_a_payout_is_locked_and_finalised(open_ledger: Open, database_url: str) -> None:
    async with open_ledger(database_url) as far:
        await fund(far)
        locked = applied(await far.transfer(order("lock")))
        assert await holds(far) == (3800, 1200)
        finalised = applied(await far.transfer(order("finalize")))
        assert await holds(far) == (3800, 0)
        assert await paid_out(far) == 1200
        assert locked != finalised


async def test_a_payout_is_locked_and_rolled_back(open_ledger: Open, database_url: str) -> None:
    async with open_ledger(database_url) as far:
        await fund(far)
        applied(await far.transfer(order("lock")))
        applied(await far.transfer(order("rollback")))
        assert await holds(far) == (5000, 0)


async def test_a_repetition_is_the_same_event(open_ledger: Open, database_url: str) -> None:
    lock = order("lock")
    async with open_ledger(database_url) as far:
        await fund(far)
        assert await far.transferred(lock) is None
        event_id = applied(await far.transfer(lock))
        for _ in range(3):
            assert applied(await far.transfer(lock)) == event_id
            assert applied(await far.transferred(lock)) == event_id
        by_another = evolve(lock, metadata={"stage": "again"})
        assert applied(await far.transfer(by_another)) == event_id
        assert await holds(far) == (3800, 1200)


async def test_repetitions_at_once_move_the_money_once(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await fund(far)
        outcomes: list[TransferOutcome] = []

        async def lock() -> None:
            outcomes.append(await far.transfer(order("lock")))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(lock)
        assert len({applied(outcome) for outcome in outcomes}) == 1
        assert await holds(far) == (3800, 1200)


async def test_a_key_that_holds_another_transfer_is_never_taken_for_ours(
    open_ledger: Open, database_url: str
) -> None:
    lock = order("lock")
    async with open_ledger(database_url) as far:
        await fund(far)
        applied(await far.transfer(lock))
        for other, difference in (
            (evolve(lock, amount_minor=1201), "amount"),
            (evolve(lock, source=Side.of(ALICE_DID, "B")), "bucket"),
            (evolve(lock, destination=Side.of(ALICE_DID, "F")), "bucket"),
            (evolve(lock, source=Side.of("did:key:bob", "A")), "source"),
            (evolve(lock, destination=Side.of("clearing:x", "H")), "destination"),
        ):
            with pytest.raises(AnotherTransfer, match=f"it has another {difference}"):
                await far.transferred(other)
            outcome = await far.ledger.transfer(other)
            if far.faultless:
                assert refused(outcome) == (409, "IDEMPOTENCY_KEY_REUSED", None, True)
        by_id = evolve(lock, source=Side.of(ALICE, "A"), destination=Side.of(ALICE, "H"))
        assert await far.transferred(by_id) == await far.transferred(lock)
        assert await holds(far) == (3800, 1200)


async def test_a_lock_beyond_the_balance_says_what_there_is_and_may_come_later(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        assert refused(await far.transfer(order())) == (400, "INSUFFICIENT_FUNDS", 0, False)
        await fund(far, 700)
        assert refused(await far.transfer(order())) == (400, "INSUFFICIENT_FUNDS", 700, False)
        assert await far.transferred(order()) is None
        applied(await far.transfer(order(amount_minor=700)))
        assert await holds(far) == (0, 700)


async def test_what_one_payout_has_locked_finalises_no_other(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await fund(far)
        applied(await far.transfer(order("lock")))
        outcome = await far.transfer(order("finalize", payout="pout_2"))
        assert refused(outcome) == (400, "INSUFFICIENT_FUNDS", 0, False)
        assert await holds(far) == (3800, 1200)


async def test_a_payout_ends_once(open_ledger: Open, database_url: str) -> None:
    async with open_ledger(database_url) as far:
        await fund(far)
        applied(await far.transfer(order("lock")))
        applied(await far.transfer(order("finalize")))
        assert refused(await far.transfer(order("rollback"))) == (409, "CONFLICT", None, True)
        assert await holds(far) == (3800, 0)


async def test_what_is_no_transfer_is_refused_for_good(
    open_ledger: Open, database_url: str
) -> None:
    lock = order("lock")
    async with open_ledger(database_url) as far:
        await fund(far)
        for malformed, code in (
            (evolve(lock, key=""), "INVALID_REQUEST"),
            (evolve(lock, key="k" * 513), "INVALID_REQUEST"),
            (evolve(lock, amount_minor=0), "INVALID_REQUEST"),
            (evolve(lock, amount_minor=2**63), "INVALID_REQUEST"),
            (evolve(lock, currency="EUR"), "UNSUPPORTED_CURRENCY"),
            (evolve(lock, metadata={"note": "a\0b"}), "INVALID_REQUEST"),
            (evolve(lock, metadata={"note": "\ud800"}), "INVALID_REQUEST"),
            (evolve(lock, destination=Side.of("nobody", "A")), "INVALID_ACCOUNT"),
            (evolve(lock, destination=Side.of("acc_nobody", "A")), "INVALID_ACCOUNT"),
            (evolve(lock, destination=lock.source), "INVALID_REQUEST"),
        ):
            outcome = await far.transfer(malformed)
            assert refused(outcome) == (400, code, None, True), malformed
        assert await holds(far) == (5000, 0)


async def test_events_are_found_by_their_keys_whatever_is_in_them(
    open_ledger: Open, database_url: str
) -> None:
    keys = ["payout:lock:a/b", "a%2Fb", "..", "ä ö?#&+%", "payout:lock:a:b", "x" * 512]
    async with open_ledger(database_url) as far:
        await fund(far)
        ids = {
            key: applied(await far.transfer(evolve(order(amount_minor=number), key=key)))
            for number, key in enumerate(keys, 1)
        }
        assert await far.ask(partial(far.ledger.events_by_key, [])) == {}
        asked = [*keys, "payout:lock:nobody", *(f"none:{n}" for n in range(20))]
        if not far.faultless:
            asked = asked[:2]  # one fault fails the whole question
        found = await far.ask(partial(far.ledger.events_by_key, asked))
        assert {key: event.event_id for key, event in found.items()} == {
            key: ids[key] for key in asked if key in ids
        }
        for key, event in found.items():
            amount_minor = keys.index(key) + 1
            at, metadata = event.created_at, event.metadata
            assert event == LedgerEvent(
                ids[key], key, "transfer", ALICE, ALICE, amount_minor, "available", metadata, at
            )
            assert at is not None
            assert metadata["stage"] == "lock"


async def test_a_call_that_was_given_up_is_found_or_repeated_and_moves_the_money_once(
    open_ledger: Open, database_url: str
) -> None:
    async with open_ledger(database_url) as far:
        await fund(far)
        # The tail is locked, so the request is under way and cannot be answered.
        async with (
            held(database_url, "SELECT * FROM ledger_tail FOR UPDATE"),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(far.transfer, order())
            await wait_for_locks(far.house.database, 1)
            nursery.cancel_scope.cancel()
        event_id = applied(await far.transfer(order()))
        assert applied(await far.transferred(order())) == event_id
        assert await holds(far) == (3800, 1200)
