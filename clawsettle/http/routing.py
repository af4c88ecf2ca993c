"""Requests, replies and routes as plain values, and the table that finds a route.

Paths are matched as they were sent, undecoded: ``%2F`` inside a segment stays inside it and is
decoded for the handler only. There is no 405, no redirect, no answer of its own to OPTIONS or
HEAD: what is not in the table does not exist.

Source: webhook-forwarding contract section 1, ledger-api contract section 1.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import BinaryIO, Final, Literal, Self
from urllib.parse import unquote_to_bytes

import attrs
import orjson

JSON_TYPE: Final = "application/json"
HTML_TYPE: Final = "text/html; charset=utf-8"
CSV_TYPE: Final = "text/csv; charset=utf-8"

_MALFORMED_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARAMETER: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@attrs.frozen
class Request:
    """One request, whole, as a handler sees it.

    ``path`` is raw: undecoded, without the query. ``params`` are the path's parameters, each
    percent-decoded once as strict UTF-8. ``query`` keeps the first value of each name, form-decoded
    (``+`` is a space). ``headers`` have lower-case names; several of one name are joined with
    ``", "``. ``request_id`` is fresh random hex, never taken from the caller: the correlation id.

    Source: webhook-forwarding contract sections 1 and 4 (joined headers).
    """

    method: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    request_id: str

    def completed(self, params: Mapping[str, str], body: bytes) -> "Request":
        """Return the request with what is known of it last."""
        return Request(
            self.method, self.path, params, self.query, self.headers, body, self.request_id
        )


@attrs.frozen
class Reply:
    """One answer; the headers that belong to the port are added when it is sent.

    ``content_type`` of None means the port's JSON content type. ``headers`` are extra ones, with
    lower-case names. What does not fit into memory is in ``file``: after ``body`` it is sent from
    where it stands, ``file_bytes`` of it, and it is closed afterwards, sent or not.

    Source: new.
    """

    status: int
    body: bytes
    content_type: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    file: BinaryIO | None = None
    file_bytes: int = 0

    @classmethod
    def json(
        cls, status: int, content: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> Self:
        """Return ``content`` as compact JSON, its keys in the order given.

        Raises ``TypeError`` for what JSON has no form for, integers beyond 64 bits included.

        Source: payouts contract section 1.
        """
        return cls(status, orjson.dumps(content), None, headers or {})

    @classmethod
    def html(cls, status: int, page: str, headers: Mapping[str, str] | None = None) -> Self:
        """Return a UTF-8 HTML page; escaping what is not markup is the caller's part.

        Source: webhook-forwarding contract section 1.
        """
        return cls(status, page.encode(), HTML_TYPE, headers or {})


Handler = Callable[[Request], Awaitable[Reply]]
"""Answers one request.

A ``ClawsettleError`` it raises becomes its row of the error table, any other exception an opaque
500. It is cancelled when the client hangs up, so work that must go on belongs to an actor.
"""


@attrs.frozen
class Parameter:
    """A query or header parameter, for the OpenAPI document only; nothing checks it.

    Source: new.
    """

    name: str
    where: Literal["query", "header"]
    description: str
    required: bool = False
    schema: Mapping[str, object] = attrs.field(factory=lambda: {"type": "string"})


@attrs.frozen
class Route:
    """One method and path, its handler, and what the OpenAPI document says of them.

    ``path`` is a template: each segment is literal or a whole ``{parameter}``. ``public`` routes
    pass the port's guard unasked. ``direct`` ones, whose rate matters, are answered without Quart;
    nothing else of them differs. ``errors`` are the codes it answers beside those every route
    has; ``statuses`` overrules the error table for this route. ``auth`` names the security scheme
    whose keys it takes, ``scopes`` name others that suffice as well.

    Source: new.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    description: str = ""
    public: bool = False
    direct: bool = False
    auth: str | None = None
    scopes: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    request_schema: Mapping[str, object] | None = None
    request_example: object = None
    response_status: int = 200
    response_type: str = JSON_TYPE
    response_schema: Mapping[str, object] | None = None
    response_example: object = None
    errors: tuple[str, ...] = ()
    statuses: Mapping[str, int] = attrs.field(factory=dict)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the path parameters, from left to right."""
        return tuple(_PARAMETER.findall(self.path))


class MalformedPath(Exception):
    """A path parameter has a broken percent-escape, or decodes to something that is no text."""


@attrs.frozen
class Match:
    """A route and the raw segments that stand for its parameters."""

    route: Route
    raw_params: Mapping[str, str]

    def params(self) -> dict[str, str]:
        """Return the decoded parameters.

        Raises ``MalformedPath`` for a broken escape, invalid UTF-8, and for U+0000, which no
        stored name contains.

        Source: webhook-forwarding contract section 1, ledger-api contract section 1.
        """
        return {name: _decoded(raw) for name, raw in self.raw_params.items()}


class RouteTable:
    """Finds the route of a raw path, exactly and case-sensitively.

    Literal segments win over parameters, from left to right, whatever the order of the routes.

    Raises ``ValueError`` for a path that is no template and for two routes that are one.

    Source: webhook-forwarding contract section 1.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._literal: dict[tuple[str, str], Route] = {}
        self._templates: dict[tuple[str, int], list[tuple[tuple[str | None, ...], Route]]] = {}
        shapes: set[tuple[str, tuple[str | None, ...]]] = set()
        for route in routes:
            shape = _shape(route.path)
            if (route.method, shape) in shapes:
                raise ValueError(f"two routes for {route.method} {route.path}")
            shapes.add((route.method, shape))
            if None in shape:
                self._templates.setdefault((route.method, len(shape)), []).append((shape, route))
            else:
                self._literal[route.method, route.path] = route
        for rivals in self._templates.values():
            rivals.sort(key=lambda rival: [segment is None for segment in rival[0]])

    def find(self, method: str, path: str) -> Match | None:
        """Return the route for a method and a raw path without query, or None.

        An empty segment stands for no parameter, so a doubled or trailing slash finds nothing.
        """
        literal = self._literal.get((method, path))
        if literal is not None:
            return Match(literal, {})
        segments = path.split("/")
        for shape, route in self._templates.get((method, len(segments)), ()):
            if all(
                want == have if want is not None else have != ""
                for want, have in zip(shape, segments, strict=True)
            ):
                values = [have for want, have in zip(shape, segments, strict=True) if want is None]
                return Match(route, dict(zip(route.parameter_names, values, strict=True)))
        return None


def _shape(path: str) -> tuple[str | None, ...]:
    """Return the segments of a template, None for each parameter."""
    shape = tuple(None if _PARAMETER.fullmatch(part) else part for part in path.split("/"))
    names = _PARAMETER.findall(path)
    if (
        not path.startswith("/")
        or len(set(names)) != len(names)
        or any("{" in part or "}" in part for part in shape if part is not None)
    ):
        raise ValueError(f"not a path template: {path}")
    return shape


def _decoded(segment: str) -> str:
    if _MALFORMED_ESCAPE.search(segment):
        raise MalformedPath
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise MalformedPath from None
    if "\0" in text:
        raise MalformedPath
    return text
