"""``/v1/dead-letters``: what waits for an operator, and what operators do about it.

Nothing is attempted inside a request: a requeue makes the row due and rings for it.
Source: new; webhook-forwarding contract section 1 for keys and form, section 14 (W4).
"""

from collections.abc import Callable
from enum import StrEnum

import structlog
from attrs import frozen

from clawsettle.config import AdminSettings
from clawsettle.domain.errors import CallerError, NotFoundError
from clawsettle.domain.forwarding import Blame
from clawsettle.domain.instants import iso_instant
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.operator import ACTION_SCHEMA, action_view, actions_schema, read_operator
from clawsettle.http.query import (
    PAGE_PARAMETERS,
    read_cursor,
    read_limit,
    read_word,
    write_cursor,
)
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.dead_letters import KIND, STATES, DeadLetter, DeadLetters

_log = structlog.get_logger(__name__)


class Kind(StrEnum):
    """What a dead letter was to become."""

    SETTLEMENT = KIND


class Listed(StrEnum):
    """Which dead letters a list shows."""

    DEAD = "dead"
    DISCARDED = "discarded"
    ANY = "any"


@frozen(eq=False)
class DeadLetterRoutes:
    """The handlers and what they need; ``ring`` has the rescuer look for due rows soon."""

    letters: DeadLetters
    admin: AdminSettings
    ring: Callable[[], None]

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        closed = ("UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED")
        named = ("DEAD_LETTER_NOT_FOUND", *closed)
        act_errors = ("INVALID_REQUEST", "INVALID_STATUS_TRANSITION", *named)
        return [
            Route(
                "GET",
                "/v1/dead-letters",
                self.list_letters,
                "Dead letters, newest first",
                auth="settleAdmin",
                parameters=(
                    Parameter("state", "query", "dead (default), discarded or any"),
                    Parameter("kind", "query", "settlement; no other kind yet"),
                    *PAGE_PARAMETERS,
                ),
                response_schema={
                    "type": "object",
                    "required": ["dead_letters"],
                    "properties": {
                        "dead_letters": {"type": "array", "items": _LETTER_SCHEMA},
                        "next_cursor": _TEXT,
                    },
                },
                errors=("INVALID_REQUEST", "INVALID_CURSOR", *closed),
            ),
            Route(
                "GET",
                "/v1/dead-letters/{id}",
                self.show,
                "A dead letter, what it would send, and who did what with it",
                auth="settleAdmin",
                response_schema=_DETAIL_SCHEMA,
                errors=named,
            ),
            Route(
                "POST",
                "/v1/dead-letters/{id}/requeue",
                self.requeue,
                "Have a dead or discarded row attempted again",
                description="Due at once, with its attempts and its age counted anew.",
                auth="settleAdmin",
                request_schema=ACTION_SCHEMA,
                response_schema=_LETTER_SCHEMA,
                errors=act_errors,
            ),
            Route(
                "POST",
                "/v1/dead-letters/{id}/discard",
                self.discard,
                "Close a dead row: it will not be sent",
                auth="settleAdmin",
                request_schema=ACTION_SCHEMA,
                response_schema=_LETTER_SCHEMA,
                errors=act_errors,
            ),
        ]

    async def list_letters(self, request: Request) -> Reply:
        """Answer a page and, when there is more, the cursor of the next."""
        require_settle_admin(request, self.admin.keys)
        listed = read_word(request, "state", Listed) or Listed.DEAD
        read_word(request, "kind", Kind)
        limit, after = read_limit(request), read_cursor(request)
        states = [state for state in STATES if listed in (state, Listed.ANY)]
        found = await self.letters.page(states, after=after, limit=limit + 1)
        body: dict[str, object] = {"dead_letters": [_view(letter) for letter in found[:limit]]}
        if len(found) > limit:
            last = found[limit - 1]
            body["next_cursor"] = write_cursor(last.updated_at, last.event_id)
        return Reply.json(200, body)

    async def show(self, request: Request) -> Reply:
        """Answer a row that is or was a dead letter, with its payload and its actions."""
        require_settle_admin(request, self.admin.keys)
        found = await self.letters.find(_event_id(request))
        if found is None:
            raise _not_found()
        letter, actions = found
        return Reply.json(
            200,
            {**_view(letter), **_payload(letter), "actions": [action_view(one) for one in actions]},
        )

    async def requeue(self, request: Request) -> Reply:
        """Bring a dead or discarded row back; the attempt follows by itself."""
        operator = read_operator(request, self.admin.keys)
        event_id = _event_id(request)
        letter = await self.letters.requeue(event_id, operator)
        if letter is None:
            raise _not_found()
        self.ring()
        _log.info("dead_letter_requeued", event_id=event_id, actor=operator.actor, by=operator.by)
        return Reply.json(200, _view(letter))

    async def discard(self, request: Request) -> Reply:
        """Close a dead row."""
        operator = read_operator(request, self.admin.keys)
        event_id = _event_id(request)
        letter = await self.letters.discard(event_id, operator)
        if letter is None:
            raise _not_found()
        _log.info("dead_letter_discarded", event_id=event_id, actor=operator.actor, by=operator.by)
        return Reply.json(200, _view(letter))


def _event_id(request: Request) -> str:
    kind, _, event_id = request.params["id"].partition(":")
    if kind != Kind.SETTLEMENT:
        raise _not_found()
    return event_id


def _not_found() -> NotFoundError:
    return NotFoundError("no such dead letter", code="DEAD_LETTER_NOT_FOUND")


def _view(letter: DeadLetter) -> dict[str, object]:
    """Return a row as JSON, without what is not known of it."""
    is_closed = letter.state in STATES
    fields: dict[str, object] = {
        "id": f"{Kind.SETTLEMENT}:{letter.event_id}",
        "kind": Kind.SETTLEMENT,
        "event_id": letter.event_id,
        "event_type": letter.event_type,
        "state": letter.state,
        "reason": letter.reason,
        "blame": letter.blame,
        "code": letter.code,
        "ledger_status": letter.ledger_status,
        "attempts": letter.attempts,
        "created_at": iso_instant(letter.created_at),
        "last_attempted_at": letter.last_attempted_at and iso_instant(letter.last_attempted_at),
        "dead_at": iso_instant(letter.updated_at) if is_closed else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _payload(letter: DeadLetter) -> dict[str, object]:
    """Return what is stored to be sent: as JSON, or as the text that is no JSON."""
    try:
        return {"payload": parse_json(letter.payload.encode())}
    except CallerError:
        return {"payload_text": letter.payload}


_TEXT = {"type": "string"}
_INSTANT = {"type": "string", "format": "date-time"}
_LETTER_FIELDS = {
    "id": {"type": "string", "examples": ["settlement:evt_1"]},
    "kind": {"enum": list(Kind)},
    "event_id": _TEXT,
    "event_type": _TEXT,
    "state": {"type": "string", "description": "dead or discarded; another once requeued."},
    "reason": _TEXT,
    "blame": {"enum": list(Blame)},
    "code": _TEXT,
    "ledger_status": {"type": "integer"},
    "attempts": {"type": "integer", "description": "Since it was recorded or requeued."},
    "created_at": _INSTANT,
    "last_attempted_at": _INSTANT,
    "dead_at": _INSTANT,
}
_LETTER_SCHEMA = {
    "type": "object",
    "required": ["id", "kind", "event_id", "event_type", "state", "attempts", "created_at"],
    "properties": _LETTER_FIELDS,
}
_DETAIL_SCHEMA = {
    "type": "object",
    "required": [*_LETTER_SCHEMA["required"], "actions"],
    "properties": {
        **_LETTER_FIELDS,
        "payload": {"description": "What is stored to be sent."},
        "payload_text": {"type": "string", "description": "In its place when it is no JSON."},
        "actions": actions_schema("requeue", "discard"),
    },
}
