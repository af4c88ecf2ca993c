"""The ledger in process and the ledger over HTTP say the same of the same history."""

from collections.abc import Sequence
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.forwarding import Forwardable
from clawsettle.domain.money import MINOR_MAX
from tests.clients.ledgers import in_process, over_http, verdicts

DIDS = ("did:key:alice", "did:key:bob")
# The world is small, so that settlements meet each other; each field is sometimes odd.
FIELDS: dict[str, list[Any]] = {
    "provider": [*["stripe"] * 9, "adyen", " stripe ", "", None, "a\0b", "\ud800"],
    "external_payment_id": [*[f"pi_{n}" for n in range(4)] * 3, " ", 7, "größe"],
    "direction": [*["payin", "payin", "refund", "payout"] * 4, "PAYIN", None],
    "status": [*["confirmed", "confirmed", "failed", "pending", "reversed"] * 4, "paid", True],
    "account_id": [*["acc_32ca986a", "acc_61720de1"] * 6, "acc_nobody", "external:stripe:USD", ""],
    "amount_minor": [*["100", "100", "250", "60"] * 4, "0100", str(MINOR_MAX), "0", 100, "1.0"],
    "currency": [*["USD"] * 12, "usd", " USD ", "EUR", "US", None],
}
OPTIONAL: dict[str, list[Any]] = {
    "metadata": [{}, {"a": 1, "b": [None, True, "größe"]}, {"a": 1.5}, None, [], {"a": "\0"}],
    "rail": ["card", " ", 7, None, "x" * 256],
    "provider_updated_at": ["2026-02-11T00:00:00.000Z", "2026-02-12T00:00:00.000Z", "soon", 1],
    "settled_at": ["2026-02-11T00:00:00.000Z", None],
}
PAYLOADS = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in FIELDS.items()},
    optional={name: st.sampled_from(values) for name, values in OPTIONAL.items()},
)
KEYS = st.sampled_from([*[f"stripe:event:evt_{n}" for n in range(30)], "", "k" * 513])
HISTORIES = st.lists(
    st.lists(st.builds(Forwardable, KEYS, PAYLOADS), min_size=1, max_size=4), max_size=25
)


@settings(deadline=None, max_examples=20)
@given(history=HISTORIES)
def test_the_same_history_has_the_same_outcomes(
    postgres: Any, history: Sequence[Sequence[Forwardable]]
) -> None:
    urls = [postgres.server.dsn_of(postgres.create_database("migrated")) for _ in range(2)]
    trio.run(_compare, history, *urls)


async def _compare(history: Sequence[Sequence[Forwardable]], near_url: str, far_url: str) -> None:
    async with in_process(near_url) as near, over_http(far_url) as far:
        for did in DIDS:
            await near.house.open_account(did)
            await far.house.open_account(did)
        for batch in history:
            outcomes = await near.ledger.ingest(batch)
            assert verdicts(outcomes) == verdicts(await far.ledger.ingest(batch))
        for account_id in ("acc_32ca986a", "acc_61720de1"):
            assert await near.house.available(account_id) == await far.house.available(account_id)
