"""Whoever calls the stand-ins of risk targets with the right keys."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from attrs import define

from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.risk_targets import RiskSandbox, open_risk_sandbox

Body = Mapping[str, Any]


@define(eq=False)
class Caller:
    sandbox: RiskSandbox
    client: httpx.AsyncClient

    async def post(
        self, target: Target, path: str, body: Body, key: str = "k1"
    ) -> tuple[int, dict[str, Any]]:
        """Return status and body of the answer to a call."""
        answer = await self.send(target, path, body, key)
        return answer.status_code, answer.json()

    async def refusal(
        self, target: Target, path: str, body: Body, key: str = "k1"
    ) -> tuple[int, str]:
        """Return status and code of the answer, which must be a refusal."""
        status, said = await self.post(target, path, body, key)
        assert set(said) == {"error", "message"}
        return status, said["error"]

    async def send(self, target: Target, path: str, body: Body, key: str = "k1") -> httpx.Response:
        address = self.sandbox.addresses[target]
        return await self.client.post(
            address.base_url + path,
            json={"idempotency_key": key, **body},
            headers={"authorization": f"Bearer {address.key.reveal()}", "idempotency-key": key},
        )


@asynccontextmanager
async def open_caller(timeout_s: float = 10) -> AsyncIterator[Caller]:
    async with (
        open_risk_sandbox() as sandbox,
        httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client,
    ):
        yield Caller(sandbox, client)
