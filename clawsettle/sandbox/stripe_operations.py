"""The operations of Stripe's API that the sandbox has: path, parameters and work of each."""

import re
from collections.abc import Callable, Iterable

from attrs import frozen
from stripe import params

from clawsettle.sandbox.stripe_errors import invalid, missing
from clawsettle.sandbox.stripe_objects import Json, balance_object, list_object
from clawsettle.sandbox.stripe_state import StripeState

PAGE_DEFAULT = 10
PAGE_MAX = 100

_PAGING = frozenset({"limit", "starting_after", "ending_before"})
_COMPARED: dict[str, Callable[[int, int], bool]] = {
    "gt": int.__gt__,
    "gte": int.__ge__,
    "lt": int.__lt__,
    "lte": int.__le__,
}


@frozen
class Asked:
    """What a handler is asked: the path's id, the checked parameters, the account acted for."""

    object_id: str
    params: Json
    account_id: str | None

    @property
    def connected_id(self) -> str:
        """Return the connected account that is acted for."""
        if self.account_id is None:
            raise invalid("The sandbox pays out from connected accounts only: set Stripe-Account.")
        return self.account_id


@frozen
class Operation:
    """One operation; ``{id}`` in its path stands for the id of an object."""

    name: str
    method: str
    path: str
    params: type
    handle: Callable[[StripeState, Asked], Json]

    def match(self, method: str, path: str) -> str | None:
        """Return the id in the path, empty where there is none; None for another operation."""
        pattern = re.escape(self.path).replace(r"\{id\}", "([^/]+)")
        matched = re.fullmatch(pattern, path) if method == self.method else None
        return None if matched is None else "".join(matched.groups())


def _retrieve_account(state: StripeState, asked: Asked) -> Json:
    return state.account(asked.object_id).content


def _list_accounts(state: StripeState, asked: Asked) -> Json:
    return _page("/v1/accounts", (each.content for each in state.accounts.values()), asked.params)


def _list_transfers(state: StripeState, asked: Asked) -> Json:
    return _page("/v1/transfers", state.transfers.values(), asked.params)


def _list_payouts(state: StripeState, asked: Asked) -> Json:
    of_account = (
        payout.content
        for payout in state.payouts.values()
        if payout.account_id == asked.connected_id
    )
    return _page("/v1/payouts", of_account, asked.params)


def _retrieve_balance(state: StripeState, asked: Asked) -> Json:
    account = state.account(asked.connected_id)
    return balance_object({account.content["default_currency"]: 0, **account.balance_minor})


def _page(url: str, objects: Iterable[Json], params: Json) -> Json:
    """Return the page of the objects that pass all filters, the latest first."""
    filters = {name: wanted for name, wanted in params.items() if name not in _PAGING}
    found = [
        content
        for content in objects
        if all(_passes(content[name], wanted) for name, wanted in filters.items())
    ][::-1]
    limit = params.get("limit", PAGE_DEFAULT)
    if not 1 <= limit <= PAGE_MAX:
        raise invalid(f"Limit must be between 1 and {PAGE_MAX}.", param="limit")
    if "ending_before" in params:
        newer = found[: _position(found, params["ending_before"], "ending_before")]
        return list_object(url, newer[-limit:], has_more=len(newer) > limit)
    if "starting_after" in params:
        found = found[_position(found, params["starting_after"], "starting_after") + 1 :]
    return list_object(url, found[:limit], has_more=len(found) > limit)


def _passes(value: object, wanted: object) -> bool:
    if isinstance(wanted, dict) and isinstance(value, int):
        return all(_COMPARED[name](value, bound) for name, bound in wanted.items())
    return value == wanted


def _position(found: list[Json], object_id: str, param: str) -> int:
    for position, content in enumerate(found):
        if content["id"] == object_id:
            return position
    raise missing("object", object_id, param=param, status=400)


OPERATIONS = (
    Operation(
        "accounts.create",
        "POST",
        "/v1/accounts",
        params.AccountCreateParams,
        lambda state, asked: state.open_account(asked.params),
    ),
    Operation(
        "accounts.retrieve",
        "GET",
        "/v1/accounts/{id}",
        params.AccountRetrieveParams,
        _retrieve_account,
    ),
    Operation("accounts.list", "GET", "/v1/accounts", params.AccountListParams, _list_accounts),
    Operation(
        "account_links.create",
        "POST",
        "/v1/account_links",
        params.AccountLinkCreateParams,
        lambda state, asked: state.link_account(asked.params),
    ),
    Operation(
        "transfers.create",
        "POST",
        "/v1/transfers",
        params.TransferCreateParams,
        lambda state, asked: state.make_transfer(asked.params),
    ),
    Operation(
        "transfers.retrieve",
        "GET",
        "/v1/transfers/{id}",
        params.TransferRetrieveParams,
        lambda state, asked: state.transfer(asked.object_id),
    ),
    Operation("transfers.list", "GET", "/v1/transfers", params.TransferListParams, _list_transfers),
    Operation(
        "transfers.reversals.create",
        "POST",
        "/v1/transfers/{id}/reversals",
        params.TransferReversalCreateParams,
        lambda state, asked: state.reverse_transfer(asked.object_id, asked.params),
    ),
    Operation(
        "payouts.create",
        "POST",
        "/v1/payouts",
        params.PayoutCreateParams,
        lambda state, asked: state.make_payout(asked.connected_id, asked.params),
    ),
    Operation(
        "payouts.retrieve",
        "GET",
        "/v1/payouts/{id}",
        params.PayoutRetrieveParams,
        lambda state, asked: state.payout(asked.object_id, asked.account_id).content,
    ),
    Operation("payouts.list", "GET", "/v1/payouts", params.PayoutListParams, _list_payouts),
    Operation(
        "payouts.cancel",
        "POST",
        "/v1/payouts/{id}/cancel",
        params.PayoutCancelParams,
        lambda state, asked: state.cancel_payout(asked.connected_id, asked.object_id),
    ),
    Operation(
        "balance.retrieve",
        "GET",
        "/v1/balance",
        params.BalanceRetrieveParams,
        _retrieve_balance,
    ),
)
