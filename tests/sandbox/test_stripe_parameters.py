"""Parameters against the types of Stripe's SDK."""

import pytest
from stripe import params

from clawsettle.sandbox.stripe_errors import Refused
from clawsettle.sandbox.stripe_parameters import METADATA_MAX, read_parameters


def test_parameters_become_values_of_the_sdks_types() -> None:
    form = "amount=12&currency=usd&destination=acct_1&metadata[payout_id]=p&metadata[none]="
    assert read_parameters(form, params.TransferCreateParams) == {
        "amount": 12,
        "currency": "usd",
        "destination": "acct_1",
        "metadata": {"payout_id": "p"},
    }
    form = "type=express&capabilities[transfers][requested]=true"
    assert read_parameters(form, params.AccountCreateParams) == {
        "type": "express",
        "capabilities": {"transfers": {"requested": True}},
    }


@pytest.mark.parametrize(
    ("form", "parsed"),
    [("created[gte]=1&created[lt]=2", {"created": {"gte": 1, "lt": 2}}), ("created=1", None)],
)
def test_a_filter_is_an_instant_or_a_range(form: str, parsed: dict[str, object] | None) -> None:
    assert read_parameters(form, params.TransferListParams) == (parsed or {"created": 1})


def test_a_value_of_several_types_is_read_as_the_one_it_fits() -> None:
    form = (
        "external_account[object]=bank_account&external_account[country]=US"
        "&external_account[currency]=usd&external_account[account_number]=1"
        "&documents[company_license][files][0]=file_1"
    )
    read = read_parameters(form, params.AccountCreateParams)
    assert read["external_account"]["account_number"] == "1"
    assert read["documents"]["company_license"]["files"] == ["file_1"]
    assert read_parameters("metadata=", params.TransferReversalCreateParams) == {"metadata": ""}


@pytest.mark.parametrize(
    ("form", "kind", "code", "param"),
    [
        ("amount=1", params.PayoutCreateParams, "parameter_missing", "currency"),
        ("currency=usd", params.PayoutCreateParams, "parameter_missing", "amount"),
        ("limt=1", params.PayoutListParams, "parameter_unknown", "limt"),
        ("created[from]=1", params.PayoutListParams, "parameter_unknown", "created[from]"),
        (
            "capabilities[transfers][reqested]=true",
            params.AccountCreateParams,
            "parameter_unknown",
            "capabilities[transfers][reqested]",
        ),
        ("created=soon", params.PayoutListParams, "parameter_invalid_integer", "created"),
        ("limit=1.5", params.PayoutListParams, "parameter_invalid_integer", "limit"),
        ("country=", params.AccountCreateParams, "parameter_invalid_empty", "country"),
        ("a[b=1", params.PayoutListParams, "parameter_unknown", "a[b"),
        # What the SDK takes as options of a call travels in headers only.
        ("idempotency_key=k", params.AccountCreateParams, "parameter_unknown", "idempotency_key"),
        ("expand[0]=data", params.PayoutListParams, "parameter_unknown", "expand"),
        ("status[a]=1", params.PayoutListParams, None, "status"),
        ("status=a&status[b]=1", params.PayoutListParams, None, "status[b]"),
        ("metadata=a", params.AccountCreateParams, None, "metadata"),
        ("metadata[a][b]=1", params.AccountCreateParams, None, "metadata[a]"),
        (f"metadata[{'k' * 41}]=v", params.AccountCreateParams, None, f"metadata[{'k' * 41}]"),
        (f"metadata[k]={'v' * 501}", params.AccountCreateParams, None, "metadata[k]"),
        (
            "&".join(f"metadata[{n}]=v" for n in range(METADATA_MAX + 1)),
            params.AccountCreateParams,
            None,
            "metadata",
        ),
        (
            "capabilities[transfers][requested]=yes",
            params.AccountCreateParams,
            None,
            "capabilities[transfers][requested]",
        ),
    ],
)
def test_what_the_sdk_could_not_have_sent_is_refused(
    form: str, kind: type, code: str | None, param: str
) -> None:
    with pytest.raises(Refused) as refused:
        read_parameters(form, kind)
    error = refused.value.error
    assert (error.status, error.error_type) == (400, "invalid_request_error")
    assert (error.code, error.param) == (code, param)
