"""Who acts on an operator's route, and why: the key that was used, and what the body says.

Source: new.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from clawsettle.config import Secret
from clawsettle.domain.errors import CallerError
from clawsettle.domain.instants import iso_instant
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.routing import Request
from clawsettle.http.schemas import INSTANT, TEXT, Schema, shape
from clawsettle.http.strict_json import parse_body, parse_json
from clawsettle.storage.operator_actions import Operator, OperatorAction

BY_MAX, WHY_MAX = 100, 500
WHY_SCHEMA: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": WHY_MAX}
BY_SCHEMA: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": BY_MAX}
ACTION_SCHEMA = shape({"why": WHY_SCHEMA}, {"by": BY_SCHEMA})
OPTIONAL_ACTION_SCHEMA = shape({}, {"why": WHY_SCHEMA, "by": BY_SCHEMA})


def read_operator(
    request: Request, keys: Sequence[Secret], *, unless_said: str | None = None
) -> Operator:
    """Return who acts and why: the key is looked at first, then the body.

    ``unless_said`` is the reason where the body gives none, and lets it be blank; without it a
    reason is required.

    Raises: as require_settle_admin; CallerError INVALID_REQUEST, with ``details.field``.
    """
    actor = require_settle_admin(request, keys)
    body = parse_json(request.body) if unless_said is None else parse_body(request.body)
    if not isinstance(body, dict):
        raise CallerError("the body must be an object")
    why, by = body.get("why", unless_said), body.get("by")
    if not isinstance(why, str) or not 1 <= len(why.strip()) <= WHY_MAX:
        raise _bad("why", f"must be a text of 1 to {WHY_MAX} characters")
    if "by" in body and not (isinstance(by, str) and 1 <= len(by) <= BY_MAX and by.isprintable()):
        raise _bad("by", f"must be 1 to {BY_MAX} printable characters")
    return Operator(actor, why.strip(), by)


def action_view(action: OperatorAction) -> Mapping[str, object]:
    """Return what an operator did as JSON."""
    operator = action.operator
    by = {} if operator.by is None else {"by": operator.by}
    who = {"action": action.action, "actor": operator.actor, **by}
    return {**who, "why": operator.why, "at": iso_instant(action.at)}


def actions_schema(*actions: str) -> Schema:
    """Return the schema of a list of such actions."""
    done: dict[str, Schema] = {
        "action": {"enum": list(actions)},
        "actor": {"type": "string", "description": "Fingerprint of the key."},
        "why": TEXT,
        "at": INSTANT,
    }
    return {"type": "array", "description": "Oldest first.", "items": shape(done, {"by": TEXT})}


def _bad(field: str, message: str) -> CallerError:
    return CallerError(f"{field} {message}", details={"field": field})
