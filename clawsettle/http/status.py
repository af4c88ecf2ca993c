"""What the daemon says of itself: the front page, liveness, readiness, the API's description.

Source: webhook-forwarding contract section 1; ``/ready`` and ``/openapi.json`` are new.
"""

import html
from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import define, field, frozen

from clawsettle.actors.loss_watch import LossWatch
from clawsettle.actors.supervisor import Supervised
from clawsettle.domain.errors import ConfigError, StorageError
from clawsettle.http.routing import Reply, Request, Route
from clawsettle.storage.migrate import pending_migrations
from clawsettle.storage.settlement_outbox import SettlementOutbox

BACKLOG_COUNT_MAX = 10_000
_LOOK_S = 2.0
_PENDING = "pending"
_FRESH_S = 1.0


@define(eq=False)
class Readiness:
    """Whether this daemon can do its work now, looked up at most once a second.

    A backlog is shown but is no reason: it waits for the ledger or an operator, and a load balancer
    that took every daemon out of service for it would turn a slow ledger into lost deliveries.
    """

    outbox: SettlementOutbox
    actors: Sequence[Supervised]
    losses: LossWatch
    draining: bool = False
    _answer: Mapping[str, object] = field(factory=dict, init=False)
    _looked_at: float = field(default=-_FRESH_S, init=False)
    _one_at_a_time: trio.Lock = field(factory=trio.Lock, init=False)

    async def look(self) -> Mapping[str, object]:
        """Return the body of ``/ready``; ``reasons`` is empty when ready."""
        async with self._one_at_a_time:
            if trio.current_time() - self._looked_at >= _FRESH_S:
                self._answer = await self._look()
                self._looked_at = trio.current_time()
        return self._answer

    async def _look(self) -> Mapping[str, object]:
        reasons = ["the daemon is draining"] if self.draining else []
        actors = {one.actor.name: "running" if one.running else "down" for one in self.actors}
        reasons += [f"actor {name} is down" for name, state in actors.items() if state == "down"]
        body: dict[str, object] = {"database": "unreachable", "migrations": "unknown"}
        with trio.move_on_after(_LOOK_S) as bound:
            try:
                body["migrations"] = await self._migrations()
                backlog = await self.outbox.backlog(BACKLOG_COUNT_MAX)
            except StorageError:
                reasons.append("the database does not answer")
            else:
                body["database"] = "ok"
                if body["migrations"] == _PENDING:
                    reasons.append("migrations are pending")
                body["backlog"] = {
                    "open_count": backlog.open_count,
                    "dead_count": backlog.dead_count,
                    "oldest_due_s": round(backlog.oldest_due_s, 3),
                }
        if bound.cancelled_caught:
            reasons.append(f"the database did not answer within {_LOOK_S:g} s")
        body["loss_events"] = {str(at): how.view() for at, how in self.losses.standings.items()}
        status = "not_ready" if reasons else "ready"
        return {"status": status, "reasons": reasons, **body, "actors": actors}

    async def _migrations(self) -> str:
        """Return the schema's state; a newer one is no reason, or no upgrade could be rolling."""
        try:
            return _PENDING if await pending_migrations(self.outbox.database) else "current"
        except ConfigError as error:
            return error.message


@frozen(eq=False)
class StatusRoutes:
    """The daemon's own pages. ``document`` renders the OpenAPI document of this port."""

    readiness: Readiness
    document: Callable[[], Mapping[str, object]]
    listed: Callable[[], Sequence[Route]]

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [
            Route("GET", "/", self.index, "This list, for people", response_type="text/html"),
            Route(
                "GET",
                "/health",
                self.health,
                "Whether the process answers",
                response_example={"status": "ok", "service": "clawsettle"},
            ),
            Route(
                "GET",
                "/ready",
                self.ready,
                "Whether the daemon can work",
                description="503 with `reasons` when it cannot; the backlog is information.",
            ),
            Route("GET", "/openapi.json", self.openapi, "This API as OpenAPI 3.1"),
        ]

    async def health(self, _request: Request) -> Reply:
        """Answer that the process lives."""
        return Reply.json(200, {"status": "ok", "service": "clawsettle"})

    async def ready(self, _request: Request) -> Reply:
        """Answer 200 when the daemon can work, else 503 with the reasons."""
        body = await self.readiness.look()
        return Reply.json(503 if body["reasons"] else 200, body)

    async def openapi(self, _request: Request) -> Reply:
        """Answer the document."""
        return Reply.json(200, self.document())

    async def index(self, _request: Request) -> Reply:
        """Answer the front page."""
        rows = "\n".join(
            f"<tr><td>{route.method}</td><td><code>{html.escape(route.path)}</code></td>"
            f"<td>{html.escape(route.summary)}</td></tr>"
            for route in self.listed()
        )
        return Reply.html(200, _PAGE.replace("<!-- rows -->", rows))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>clawsettle</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; }
code { font-size: .95em; }
</style>
</head>
<body>
<h1>clawsettle</h1>
<p>Settlement daemon: Stripe events reach a double-entry ledger exactly once.
The API as <a href="/openapi.json">OpenAPI 3.1</a>, its state under <a href="/ready">/ready</a>.</p>
<h2>Endpoints</h2>
<table>
<tr><th>Method</th><th>Path</th><th>What it does</th></tr>
<!-- rows -->
</table>
<h2>Dispute automation</h2>
<p>Stripe's <code>charge.dispute.created</code>, <code>.updated</code> and <code>.closed</code>
events are verified and recorded once like every other; no settlement is forwarded for them.</p>
</body>
</html>
"""
