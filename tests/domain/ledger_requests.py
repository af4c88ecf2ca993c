"""Requests to the embedded ledger as its callers write them, and strategies that make them up.

The world is small, so that requests meet: few accounts, keys, payments, payouts and losses. Two of
the DIDs have the same short account id.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from attrs import frozen
from hypothesis import strategies as st

from clawsettle.domain.accounts import AccountRef, account_ref, parse_did
from clawsettle.domain.ledger import Command, OpenAccount, OpenClearing
from clawsettle.domain.risk_holds import parse_apply_hold, parse_release, parse_release_by_source
from clawsettle.domain.settlements import parse_ingest
from clawsettle.domain.transfers import parse_transfer

ALICE, BOB, ANN, BEN = "did:key:alice", "did:key:bob", "did:key:Aa", "did:key:BB"
ALICE_ID, BOB_ID, SHARED_ID = "acc_32ca986a", "acc_61720de1", "acc_76c1a16a"
SHORT_IDS = {ALICE: ALICE_ID, BOB: BOB_ID, ANN: SHARED_ID, BEN: SHARED_ID}
"""The account id that callers derive from each DID. Source: ledger-api contract section 2.2."""

CLEARING, CLEARING_ID = "clearing:clawsettle.payouts", "clr_28a671f7"
NETTING, NETTING_ID = "clearing:clawsettle.netting", "clr_741c1c87"
NO_HOLD = "rsk_00000000-0000-0000-0000-000000000000"
T = TypeVar("T")
Place = tuple[str, str]
"""An account as it is referred to, and the letter of a bucket."""


class Route(StrEnum):
    """What a request is for."""

    OPEN_ACCOUNT = "POST /accounts"
    OPEN_CLEARING = "POST /clearing/accounts"
    INGEST = "POST /v1/payments/settlements/ingest"
    TRANSFER = "POST /v1/transfers"
    APPLY_HOLD = "POST /v1/risk/holds/apply"
    RELEASE_BY_SOURCE = "POST /v1/risk/holds/release-by-source"
    RELEASE_HOLD = "POST /v1/risk/holds/{id}/release"


@frozen
class Asked:
    """One request.

    ``key`` is the header of an ingest. ``applied_under`` names the hold to release by the key it
    was applied under, because its id is known only from an answer.
    """

    route: Route
    body: Mapping[str, object]
    key: str = ""
    applied_under: str = ""


def command(asked: Asked, hold_ids: Mapping[str, str]) -> Command:
    """Parse a request as the ledger's port does; ``hold_ids`` are by the keys of their applies.

    Raises: CallerError.
    """
    hold_id = hold_ids.get(asked.applied_under, NO_HOLD)
    parsers: Mapping[Route, Callable[[Any], Command]] = {
        Route.OPEN_ACCOUNT: lambda body: OpenAccount(parse_did(body["did"])),
        Route.OPEN_CLEARING: lambda body: OpenClearing(
            _clearing(f"clearing:{body['domain']}"), body["name"]
        ),
        Route.INGEST: partial(parse_ingest, asked.key),
        Route.TRANSFER: partial(parse_transfer, currency="USD"),
        Route.APPLY_HOLD: partial(parse_apply_hold, currency="USD"),
        Route.RELEASE_BY_SOURCE: parse_release_by_source,
        Route.RELEASE_HOLD: partial(parse_release, hold_id),
    }
    return parsers[asked.route](asked.body)


def _clearing(text: str) -> AccountRef:
    ref = account_ref(text)
    assert ref is not None
    return ref


def open_account(did: str) -> Asked:
    return Asked(Route.OPEN_ACCOUNT, {"did": did})


def open_clearing(domain: str, name: str = "a name") -> Asked:
    return Asked(Route.OPEN_CLEARING, {"domain": domain, "name": name})


def settled(
    key: str,
    payment: str,
    direction: str,
    amount: int | str,
    *,
    status: str = "confirmed",
    account_id: str = ALICE_ID,
    **others: object,
) -> Asked:
    """A settlement of an external payment; ``amount`` in minor units."""
    body = {
        "provider": "stripe",
        "external_payment_id": payment,
        "direction": direction,
        "status": status,
        "account_id": account_id,
        "amount_minor": str(amount),
        "currency": "USD",
    }
    return Asked(Route.INGEST, {**body, **others}, key)


def moved(
    key: str, source: Place, destination: Place, amount: int | str, **others: object
) -> Asked:
    """A transfer of ``amount`` minor units."""
    body = {
        "idempotency_key": key,
        "currency": "USD",
        "from": {"account": source[0], "bucket": source[1]},
        "to": {"account": destination[0], "bucket": destination[1]},
        "amount_minor": str(amount),
    }
    return Asked(Route.TRANSFER, {**body, **others})


def held(key: str, source: str, account: str, amount: int | str, **others: object) -> Asked:
    """A risk hold of ``amount`` minor units for the loss event ``source``."""
    body = {
        "idempotency_key": key,
        "source_loss_event_id": source,
        "account": account,
        "amount_minor": str(amount),
        "reason": "chargeback",
    }
    return Asked(Route.APPLY_HOLD, {**body, **others})


def released_by_source(key: str, source: str, **others: object) -> Asked:
    body = {"source_loss_event_id": source, "idempotency_key": key}
    return Asked(Route.RELEASE_BY_SOURCE, {**body, **others})


def released(key: str, applied_under: str, **others: object) -> Asked:
    body = {"idempotency_key": key, **others}
    return Asked(Route.RELEASE_HOLD, body, applied_under=applied_under)


def locked(payout: str, amount: int | str, *, account: str = ALICE) -> Asked:
    """A payout's lock, as payouts send it."""
    return moved(f"payout:lock:{payout}", (account, "A"), (account, "H"), amount)


def finalized(payout: str, amount: int | str, *, account: str = ALICE, to: str = CLEARING) -> Asked:
    return moved(f"payout:finalize:{payout}", (account, "H"), (to, "A"), amount)


def rolled_back(payout: str, amount: int | str, *, account: str = ALICE) -> Asked:
    return moved(f"payout:rollback:{payout}", (account, "H"), (account, "A"), amount)


ALIAS = f"did:claw:account:{ALICE_ID}"
NAMES = [
    ALICE,
    ALICE,
    ALICE,
    ALICE,
    BOB,
    BOB,
    BOB,
    ANN,
    BEN,
    CLEARING,
    CLEARING,
    ALICE_ID,
    ALIAS,
    SHARED_ID,
]
BAD_NAMES = [
    "nobody",
    "acc_00000000",
    "did:internal:clearing:clawsettle.payouts",
    CLEARING_ID,
    "clearing: ",
]
AMOUNTS = ["10", "30", "30", "50", "50", "030", "300"]
PAYMENTS = [
    ("pi_1", "payin", ALICE_ID, "100"),
    ("pi_2", "payin", ALICE_ID, "300"),
    ("pi_3", "payin", BOB_ID, "200"),
    ("pi_4", "payin", SHARED_ID, "100"),
    ("re_1", "refund", ALICE_ID, "60"),
    ("re_2", "refund", ALICE_ID, "40"),
    ("re_3", "refund", ALICE_ID, "250"),
    ("re_4", "refund", BOB_ID, "200"),
    ("po_1", "payout", ALICE_ID, "30"),
]
REFUNDED = {"re_1": "pi_1", "re_2": "pi_1", "re_3": "pi_2", "re_4": "pi_3"}
ODD_FIELDS: list[dict[str, object]] = [
    {"amount_minor": "70"},
    {"account_id": BOB_ID},
    {"account_id": "acc_00000000"},
    {"account_id": "external:stripe:USD"},
    {"provider": "adyen"},
    {"currency": "EUR"},
    {"metadata": {"note": "x"}},
]
STATUSES = ["confirmed", "confirmed", "confirmed", "reversed", "failed", "pending"]
PAYOUTS = [("p1", ALICE, "30"), ("p2", ALICE, "50"), ("p3", BOB, "30"), ("p4", BEN, "10")]
HOLDS = [("h1", "loss_1", ALICE, "30"), ("h2", "loss_2", ALIAS, "50"), ("h3", "loss_3", BOB, "30")]
PROLOGUE = (
    *map(open_account, (ALICE, BOB, ANN)),
    settled("p1", "first_1", "payin", 100),
    settled("p2", "first_2", "payin", 100, account_id=BOB_ID),
)
"""Asked first, so that later requests find money."""


def weighted(*choices: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of several strategies, as often as their weights say; ``one_of`` knows no weights."""
    strategies = [strategy for weight, strategy in choices for _ in range(weight)]

    @st.composite
    def chosen(draw: st.DrawFn) -> T:
        return draw(strategies[draw(st.integers(0, len(strategies) - 1))])

    return chosen()


def _told_of(
    key: int, payment: tuple[str, str, str, str], status: str, linked: bool, odd: dict[str, object]
) -> Asked:
    name, direction, account_id, amount = payment
    link = {"refund_of": REFUNDED[name]} if linked and name in REFUNDED else {}
    fields: dict[str, Any] = {"account_id": account_id, **link, **odd}
    return settled(f"k{key}", name, direction, amount, status=status, **fields)


def _payout_step(stage: str, payout: tuple[str, str, str], proper: bool) -> Asked:
    name, account, amount = payout
    source, destination = {
        "lock": ((account, "A"), (account, "H")),
        "finalize": ((account, "H"), (CLEARING, "A")),
        "rollback": ((account, "H"), (account, "A")),
    }[stage]
    if not proper:
        source, destination = destination, source
    return moved(f"payout:{stage}:{name}", source, destination, amount)


names = weighted((9, st.sampled_from(NAMES)), (1, st.sampled_from(BAD_NAMES)))
letters = st.sampled_from(["A", "A", "A", "H", "H", "B", "F", "P"])
amounts = st.sampled_from(AMOUNTS)
settlements = st.builds(
    _told_of,
    st.integers(0, 99),
    st.sampled_from(PAYMENTS),
    st.sampled_from(STATUSES),
    weighted((4, st.just(value=True)), (1, st.just(value=False))),
    weighted((7, st.just(dict[str, object]())), (1, st.sampled_from(ODD_FIELDS))),
)
transfers = st.builds(
    moved,
    weighted(
        (9, st.integers(0, 30).map("t{}".format)),
        (1, st.sampled_from(["risk_hold:x:apply", "payment_settlement:x:payin_settle", "payout:"])),
    ),
    st.tuples(names, letters),
    st.tuples(names, letters),
    amounts,
    currency=weighted((19, st.just("USD")), (1, st.sampled_from(["usd", "EUR"]))),
)
own_moves = st.builds(
    lambda key, name, source, destination, amount: moved(
        key, (name, source), (name, destination), amount
    ),
    st.integers(31, 60).map("t{}".format),
    names,
    letters,
    letters,
    amounts,
)
payout_steps = st.builds(
    _payout_step,
    st.sampled_from(["lock", "lock", "finalize", "rollback"]),
    weighted(
        (5, st.sampled_from(PAYOUTS)),
        (1, st.tuples(st.sampled_from(["p1", "p2", "p3"]), names, amounts)),
    ),
    weighted((9, st.just(value=True)), (1, st.just(value=False))),
)
hold_keys = st.sampled_from([key for key, *_ in HOLDS] + ["h4", "h5"])
losses = st.sampled_from([loss for _, loss, *_ in HOLDS] + ["loss_4", "loss_5"])
applies = weighted(
    (2, st.sampled_from(HOLDS).map(lambda hold: held(*hold))),
    (
        1,
        st.builds(
            held,
            weighted((9, hold_keys), (1, st.just(f"{NO_HOLD}:release:r1"))),
            losses,
            names,
            amounts,
        ),
    ),
)
release_keys = st.sampled_from(["r1", "r1", "r2"])
releases = weighted(
    (1, st.builds(released_by_source, release_keys, losses)),
    (1, st.builds(released, release_keys, hold_keys)),
)
openings = weighted(
    (4, st.sampled_from(list(SHORT_IDS)).map(open_account)),
    (1, st.sampled_from(["did:internal:x", ALIAS]).map(open_account)),
    (2, st.sampled_from(["clawsettle.payouts", "clawsettle.netting"]).map(open_clearing)),
)
requests = weighted(
    (6, settlements),
    (4, transfers),
    (2, own_moves),
    (4, payout_steps),
    (2, applies),
    (2, releases),
    (1, openings),
)
histories = st.tuples(*[st.lists(requests, max_size=12)] * 8).map(
    lambda parts: [asked for part in parts for asked in part]
)
"""Some 40 requests, which a failing test can shrink to none."""
