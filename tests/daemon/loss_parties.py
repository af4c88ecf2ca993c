"""Five targets that remember what they have done, one of which behaves as a case says."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio
from attrs import define, field, frozen

from clawsettle.domain.loss_events import Operation, Target, loss_event_id
from clawsettle.sandbox.http1 import Cut, Reply, Request, Unanswered
from tests.clients.faulty import Wire
from tests.losses import answer, done

AMOUNT_MINOR: Final = 250
NOBODY: Final = "http://127.0.0.1:9"
KEYS: Final = ("k1", "k2")
FIRST, SECOND = (loss_event_id(key, "stripe", f"evt_{key}") for key in KEYS)
"""The events of a case: the one that it is about, and one that comes after it."""

_SAID = re.compile(r"`(\d{3}) ([A-Z_]+|\{.*\})`(?:, `Retry-After: (\d+)`)?")
_PAGE = re.compile(r"a page, `(\d{3})`")
_NOT_THERE: Mapping[Target, Reply] = {
    Target.LEDGER: answer(404, {"error": "no such hold", "code": "NOT_FOUND"}),
    Target.ESCROW: answer(409, {"error": "RISK_HOLD_NOT_ACTIVE", "message": "not held"}),
    Target.CLAWBOUNTIES: answer(404, {"error": "NOT_FOUND", "message": "nothing to clear"}),
}


@frozen
class Case:
    """One target, what it does when it is told (apply) or asked to let go (resolve)."""

    operation: Operation
    target: Target
    behaviour: str

    @property
    def is_twice(self) -> bool:
        return self.behaviour.startswith("twice")

    @property
    def is_late(self) -> bool:
        """Whether the second answer comes when the connection is at rest."""
        return self.behaviour.endswith("the second later")

    @property
    def is_silent(self) -> bool:
        return "nothing" in self.behaviour

    @property
    def is_last(self) -> bool:
        """Whether the target has no second chance."""
        return self.behaviour.endswith("to the end")


@define(eq=False)
class Parties:
    """See the module. The second event is refused by the target that the case is about."""

    case: Case
    _acted: set[tuple[Target, str]] = field(factory=set, init=False)

    def answering(self, target: Target) -> Callable[[Request], Reply]:
        """Return what a target does with a request."""
        return lambda request: self._answer(target, request)

    def _answer(self, target: Target, request: Request) -> Reply:
        if request.method == "GET":
            return self._shown()
        key = request.headers["idempotency-key"]
        is_release = key.startswith("loss-event:resolve:")
        operation = Operation.RESOLVE if is_release else Operation.APPLY
        if (operation, target) != (self.case.operation, self.case.target):
            return self._act(target, operation, request)
        if SECOND in key:
            return _refusal(target, 409, "CONFLICT")
        return self._behave(request)

    def _behave(self, request: Request) -> Reply:
        case = self.case
        if case.behaviour.startswith("nothing"):
            raise Unanswered
        if case.behaviour == "hangs up":
            raise Cut
        if page := _PAGE.fullmatch(case.behaviour):
            return Reply(int(page[1]), b"<html>welcome</html>", {"location": NOBODY})
        if case.behaviour.endswith("as it was asked for"):
            self._acted.add((case.target, FIRST))
        if said := _SAID.match(case.behaviour):
            if said[2].startswith("{"):
                return Reply(int(said[1]), said[2].encode())
            more = {"retry_after": said[3]} if said[3] else {}
            return _refusal(case.target, int(said[1]), said[2], **more)
        acted = self._act(case.target, case.operation, request)
        if case.is_silent:
            raise Unanswered
        assert case.is_twice, f"what is {case.behaviour}?"
        return acted

    def _act(self, target: Target, operation: Operation, request: Request) -> Reply:
        """Do what is asked for, as a target without faults does."""
        event_id = request.headers["idempotency-key"].split(":")[-2]
        if operation is Operation.APPLY:
            self._acted.add((target, event_id))
        elif target in _NOT_THERE and (target, event_id) not in self._acted:
            return _NOT_THERE[target]
        if target is not Target.LEDGER:
            return done(target, request)
        return answer(201, {"hold": _hold(event_id, operation), "replay": False})

    def _shown(self) -> Reply:
        """What the ledger has for the event when it is asked about a contest."""
        if self.case.behaviour.endswith("answers no look"):
            return answer(500, {})
        hold = _hold(FIRST, self.case.operation)
        if not self.case.behaviour.endswith("as it was asked for"):
            hold["amount_minor"] = str(AMOUNT_MINOR + 1)
        return answer(200, {"holds": [hold]})


@define(eq=False)
class SecondAnswer:
    """A fault: the answer is sent, and once more when it is told to."""

    _wanted: trio.Event = field(factory=trio.Event, init=False)
    _sent: trio.Event = field(factory=trio.Event, init=False)

    async def __call__(self, wire: Wire) -> None:
        said = await wire.deliver()
        await wire.client.send_all(said)
        await self._wanted.wait()
        await wire.client.send_all(said)
        self._sent.set()

    async def send(self) -> None:
        self._wanted.set()
        await self._sent.wait()


def _hold(event_id: str, operation: Operation) -> dict[str, Any]:
    status = "active" if operation is Operation.APPLY else "released"
    return {
        "source_loss_event_id": event_id,
        "amount_minor": str(AMOUNT_MINOR),
        "status": status,
    }


def _refusal(target: Target, status: int, code: str, **headers: str) -> Reply:
    shape = {"error": "no", "code": code} if target is Target.LEDGER else {"error": code}
    return answer(status, {"message": "no", **shape}, **headers)
