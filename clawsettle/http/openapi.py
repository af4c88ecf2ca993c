"""The OpenAPI 3.1 document, written from the same routes that are served.

It cannot promise a path that does not exist, nor an error status the error table does not give.

Source: new.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

from clawsettle.domain.errors import ClawsettleError
from clawsettle.http.errors import error_status
from clawsettle.http.routing import JSON_TYPE, Route
from clawsettle.http.surface import Surface

OPENAPI_VERSION: Final = "3.1.0"

SHARED_CODES: Final = ("INTERNAL_ERROR", "OVERLOADED", "STORAGE_UNAVAILABLE")
"""Codes any route may answer."""

BODY_CODES: Final = ("PAYLOAD_TOO_LARGE", "REQUEST_TIMEOUT")
"""Codes a route that takes a body may answer besides."""

_ERROR_REF: Final = {"$ref": "#/components/schemas/Error"}
_ERROR_SCHEMA: Final = {
    "type": "object",
    "description": "Every error, whatever its status.",
    "required": ["error", "code"],
    "properties": {
        "error": {"type": "string", "description": "For people; its wording may change."},
        "code": {"type": "string", "description": "For machines; stable."},
        "details": {"type": "object", "description": "Absent when there are none."},
    },
}


def openapi_document(
    routes: Iterable[Route],
    surface: Surface,
    *,
    title: str,
    version: str,
    description: str = "",
    security_schemes: Mapping[str, Mapping[str, object]] | None = None,
    schemas: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, object]:
    """Return the document for one port; paths in the order of ``routes``.

    ``schemas`` are added to the components, where a route's schemas may refer to them as
    ``#/components/schemas/<name>``; ``Error`` is there already.

    Raises ``ValueError`` when a route names a security scheme that is not given.

    Source: new.
    """
    schemes = dict(security_schemes or {})
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        for scheme in _schemes(route):
            if scheme not in schemes:
                raise ValueError(f"{route.method} {route.path}: no security scheme {scheme}")
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, surface)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {
            "schemas": {**(schemas or {}), "Error": _ERROR_SCHEMA},
            "securitySchemes": schemes,
        },
    }


def _operation(route: Route, surface: Surface) -> dict[str, object]:
    operation: dict[str, object] = {
        # The template is unique within a port, so this is too.
        "operationId": re.sub(r"[^a-z0-9]+", "_", f"{route.method}{route.path}".lower()).strip("_"),
        "summary": route.summary,
        "responses": {str(route.response_status): _success(route), **_errors(route, surface)},
        "security": [{scheme: []} for scheme in _schemes(route)],
    }
    if route.description:
        operation["description"] = route.description
    parameters = _parameters(route)
    if parameters:
        operation["parameters"] = parameters
    if route.request_schema is not None:
        operation["requestBody"] = {
            "content": _content(JSON_TYPE, route.request_schema, route.request_example)
        }
    return operation


def _schemes(route: Route) -> tuple[str, ...]:
    return () if route.auth is None else (route.auth, *route.scopes)


def _parameters(route: Route) -> list[dict[str, object]]:
    in_path: list[dict[str, object]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.parameter_names
    ]
    return in_path + [
        {
            "name": parameter.name,
            "in": parameter.where,
            "required": parameter.required,
            "description": parameter.description,
            "schema": parameter.schema,
        }
        for parameter in route.parameters
    ]


def _success(route: Route) -> dict[str, object]:
    response: dict[str, object] = {"description": HTTPStatus(route.response_status).phrase}
    schema = route.response_schema or (
        {} if route.response_type == JSON_TYPE else {"type": "string"}
    )
    response["content"] = _content(route.response_type, schema, route.response_example)
    return response


def _errors(route: Route, surface: Surface) -> dict[str, object]:
    codes = [*route.errors, *SHARED_CODES]
    if route.request_schema is not None:
        codes += BODY_CODES
    if not route.public:
        codes += surface.guard_codes
    if route.parameter_names:
        codes.append(surface.malformed_path_code)
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        status = error_status(ClawsettleError("", code=code), route.statuses)
        by_status.setdefault(status, []).append(code)
    return {str(status): _error(by_status[status]) for status in sorted(by_status)}


def _error(codes: Sequence[str]) -> dict[str, object]:
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": _content(JSON_TYPE, _ERROR_REF, None),
    }


def _content(media: str, schema: Mapping[str, object], example: object) -> dict[str, object]:
    content: dict[str, object] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {media: content}
