"""``/control``: the stand-ins are looked at, seeded and told to fail, over HTTP.

Source: new.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import orjson

from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.http1 import Reply, Request
from clawsettle.sandbox.risk_answers import Json, Refused
from clawsettle.sandbox.risk_desk import RiskCall, RiskDesk, json_object, json_reply
from clawsettle.sandbox.risk_faults import Fault

_CALLS_SHOWN_MAX = 50


def answer_control(desks: Mapping[Target, RiskDesk], request: Request, name: str) -> Reply:
    """Answer ``GET /control``, or ``GET`` or ``POST /control/NAME``.

    A POST takes ``faults``, which replace those that wait, and ``state``, which the stand-in is
    seeded with; a wrong one changes nothing.
    """
    try:
        return json_reply(200, _answer(desks, request, name))
    except Refused as refusal:
        return json_reply(refusal.said.status, refusal.said.body)


def _answer(desks: Mapping[Target, RiskDesk], request: Request, name: str) -> Json:
    if request.method == "GET" and not name:
        return {str(target): _view(desk) for target, desk in desks.items()}
    desk = next((desk for target, desk in desks.items() if target == name), None)
    if desk is None or request.method not in {"GET", "POST"}:
        raise Refused(404, "NOT_FOUND", f"there is /control, and below it {', '.join(desks)}")
    if request.method == "POST":
        _change(desk, json_object(request.body))
    return _view(desk)


def _change(desk: RiskDesk, asked: Mapping[str, Any]) -> None:
    if unknown := asked.keys() - {"faults", "state"}:
        raise Refused(400, "INVALID_REQUEST", f"unknown: {', '.join(sorted(unknown))}")
    try:
        faults = [_fault(**entry) for entry in asked.get("faults", ())]
        desk.stand_in.seed(asked.get("state", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused(400, "INVALID_REQUEST", str(error)) from error
    if "faults" in asked:
        desk.script.clear()
    for fault, calls in faults:
        desk.script.add(fault, calls=calls)


def _fault(*, calls: int | None = None, **facts: Any) -> tuple[Fault, int | None]:
    if calls is not None and (type(calls) is not int or calls < 1):
        raise ValueError("calls must be a number from 1 on, or absent")
    return Fault(**facts), calls


def _view(desk: RiskDesk) -> Json:
    newest = islice(reversed(desk.calls), _CALLS_SHOWN_MAX)
    return {
        "base_url": desk.address.base_url,
        "faults": desk.script.view(),
        "state": desk.stand_in.state(),
        "call_count": desk.call_count,
        "calls": [_shown(call) for call in newest],
    }


def _shown(call: RiskCall) -> Json:
    return {
        "path": call.path,
        "idempotency_key": call.key,
        "body": _readable(call.body),
        "http_status": call.http_status,
        "said": None if call.said is None else {"status": call.said.status, **call.said.body},
    }


def _readable(body: bytes) -> Any:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
    # As it came: what can be read may be too deep to be written again.
    return orjson.Fragment(body)
