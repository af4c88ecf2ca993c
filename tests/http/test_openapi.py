"""The document is sound by itself and says what is served."""

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from clawsettle.http.openapi import openapi_document
from clawsettle.http.routing import Parameter
from tests.http.wire import SURFACE, route

PAYOUT = {"type": "object", "properties": {"id": {"type": "string"}}}
ROUTES = (
    route("GET", "/health", public=True, response_example={"status": "ok"}),
    route("GET", "/v1/payouts/{id}", auth="admin", errors=("UNAUTHORIZED", "NOT_FOUND")),
    route("GET", "/v1/payouts", parameters=(Parameter("limit", "query", "how many"),)),
    route(
        "POST",
        "/v1/payouts",
        auth="admin",
        response_status=201,
        request_schema={"$ref": "#/components/schemas/Payout"},
        request_example={"id": "pout_1"},
        response_schema={"$ref": "#/components/schemas/Payout"},
        errors=("INVALID_REQUEST", "INSUFFICIENT_FUNDS", "UNSUPPORTED_CURRENCY"),
        statuses={"INSUFFICIENT_FUNDS": 400},
        description="Locks, then sends.",
    ),
    route("GET", "/events/{event_id}/postings/{posting_id}"),
    route("GET", "/", response_type="text/html; charset=utf-8"),
)


def document(routes: Any = ROUTES) -> dict[str, Any]:
    return openapi_document(
        routes,
        SURFACE,
        title="clawsettle",
        version="0.1.0",
        security_schemes={"admin": {"type": "http", "scheme": "bearer"}},
        schemas={"Payout": PAYOUT},
    )


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def test_it_is_json_with_the_required_members() -> None:
    written = orjson.loads(orjson.dumps(document()))
    assert written["openapi"] == "3.1.0"
    assert written["info"]["title"] == "clawsettle"
    assert written["info"]["version"] == "0.1.0"


def test_every_route_is_present_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, method, _ in operations()}
    assert described == {(one.method, one.path) for one in ROUTES}


def test_every_reference_resolves() -> None:
    whole = document()
    references = [node["$ref"] for node in nodes(whole) if "$ref" in node]
    assert "#/components/schemas/Payout" in references
    for reference in references:
        target: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert isinstance(target, dict)


def test_path_parameters_are_declared_required_and_once() -> None:
    for path, _, operation in operations():
        declared = [
            parameter["name"]
            for parameter in operation.get("parameters", [])
            if parameter["in"] == "path" and parameter["required"]
        ]
        assert declared == re.findall(r"\{(.*?)\}", path)


def test_operation_ids_are_unique_words() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9_]+", one) for one in ids)


def test_every_operation_has_a_summary_and_described_answers() -> None:
    for _, _, operation in operations():
        assert operation["summary"]
        assert all(re.fullmatch(r"[1-5]\d\d", status) for status in operation["responses"])
        for response in operation["responses"].values():
            assert response["description"]
            assert all("schema" in content for content in response["content"].values())


def test_security_names_a_scheme_or_says_there_is_none() -> None:
    for _, _, operation in operations():
        for requirement in operation["security"]:
            assert set(requirement) <= set(document()["components"]["securitySchemes"])
    assert document()["paths"]["/health"]["get"]["security"] == []
    with pytest.raises(ValueError, match="no security scheme"):
        document([route("GET", "/x", auth="unknown")])


def test_errors_stand_under_the_status_they_are_answered_with() -> None:
    responses = document()["paths"]["/v1/payouts"]["post"]["responses"]
    assert "`INSUFFICIENT_FUNDS`" in responses["400"]["description"]
    assert "`PAYLOAD_TOO_LARGE`" in responses["413"]["description"]
    assert responses["503"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Error"
    }
    assert set(responses) == {"201", "400", "408", "413", "500", "503"}


def test_examples_are_where_they_were_given() -> None:
    paths = document()["paths"]
    health = paths["/health"]["get"]["responses"]["200"]["content"]["application/json"]
    assert health["example"] == {"status": "ok"}
    body = paths["/v1/payouts"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"id": "pout_1"}
