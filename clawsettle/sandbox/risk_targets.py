"""The targets of loss events besides the ledger: four stand-ins that keep state, on one port.

Each has its own first segment of the path, with which its base URL ends: ``/escrow``,
``/clawinsure``, ``/clawincome``, ``/clawbounties``. What they were told is in memory and ends with
them. Below ``/control`` they are looked at, seeded and told to fail.

Source: loss-events 5; new.
"""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from clawsettle.config import Address, Secret, TargetAddress
from clawsettle.domain.errors import ConfigError
from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.http1 import ANYWHERE, Reply, Request, serving
from clawsettle.sandbox.risk_answers import StandIn
from clawsettle.sandbox.risk_control import answer_control
from clawsettle.sandbox.risk_desk import RiskDesk, json_reply
from clawsettle.sandbox.risk_stand_ins import Bounties, Escrows, Income, Insurance

_CONTROL = "control"


class RiskSandbox:
    """See the module; made by ``open_risk_sandbox``.

    ``desks`` have the calls of each target, and the script of what is to go wrong with them.
    """

    def __init__(self, base_url: str, keys: Mapping[Target, Secret]) -> None:
        self.base_url: Final = base_url
        self.escrow: Final = Escrows()
        self.clawinsure: Final = Insurance()
        self.clawincome: Final = Income()
        self.clawbounties: Final = Bounties()
        stand_ins: Mapping[Target, StandIn] = {
            Target.ESCROW: self.escrow,
            Target.CLAWINSURE: self.clawinsure,
            Target.CLAWINCOME: self.clawincome,
            Target.CLAWBOUNTIES: self.clawbounties,
        }
        self.desks: Final = {
            target: RiskDesk(_address(base_url, target, keys), stand_in)
            for target, stand_in in stand_ins.items()
        }

    @property
    def addresses(self) -> Mapping[Target, TargetAddress]:
        """Return what a daemon is to be given."""
        return {target: desk.address for target, desk in self.desks.items()}

    async def answer(self, request: Request) -> Reply:
        """Answer a request. Raises: Unanswered and Cut, where a script says so."""
        first, slash, rest = request.path[1:].partition("/")
        if first == _CONTROL:
            return answer_control(self.desks, request, rest)
        for target, desk in self.desks.items():
            if target == first:
                return await desk.answer(request, slash + rest)
        words = ", ".join([*self.desks, _CONTROL])
        return json_reply(404, {"error": "NOT_FOUND", "message": f"paths begin with {words}"})


@asynccontextmanager
async def open_risk_sandbox(
    bind: Address = ANYWHERE, keys: Mapping[Target, Secret] | None = None
) -> AsyncIterator[RiskSandbox]:
    """Serve the stand-ins while the block runs; those without a key get a random one.

    Raises: ConfigError when the address cannot be bound.
    """
    async with AsyncExitStack() as stack:
        try:
            sandbox = await stack.enter_async_context(
                serving(lambda base_url: RiskSandbox(base_url, keys or {}), bind)
            )
        except OSError as error:
            problem = f"cannot listen on {bind.host} port {bind.port}: {error}"
            raise ConfigError([problem]) from error
        yield sandbox


def _address(base_url: str, target: Target, keys: Mapping[Target, Secret]) -> TargetAddress:
    key = keys.get(target) or Secret(secrets.token_hex(24))
    return TargetAddress(f"{base_url}/{target}", key)
