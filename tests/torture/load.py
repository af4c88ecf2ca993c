"""A load of distinct signed events, which remembers every answer each of them got.

Plain HTTP/1.1 over trio: a refused connection, one that ends before the answer and an answer that
does not come are three different things here.
"""

import itertools
import json
import math
import select
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio
from attrs import define, field, frozen

from clawsettle.sandbox.stripe_events import EventPlan, signature_header, stripe_event

PAUSE_S = 0.05
REFUSED, CLOSED, CUT, LATE = "refused", "closed", "cut", "late"
Address = tuple[str, int]


@frozen
class Sent:
    """An event as it was sent; ``amount_minor`` differs from event to event."""

    event_id: str
    payment_id: str
    account_id: str
    amount_minor: int
    body: bytes


@frozen
class Answer:
    """What one delivery came to; times in seconds.

    ``outcome`` is the status, or ``refused``, ``closed`` (a connection kept from the request before
    ended instead of an answer), ``cut`` (a fresh one did) or ``late`` (no answer in time).
    """

    event_id: str
    outcome: int | str
    begun_at: float
    took_s: float


async def exchange(
    stream: trio.SocketStream, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, bytes, bool]:
    """Send one request and return status, body and whether the connection may be used again.

    Raises: trio.BrokenResourceError when the connection ends before the answer is complete.
    """
    lines = [f"{method} {path} HTTP/1.1", "host: torture", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)
    received = b""
    while b"\r\n\r\n" not in received:
        received += await _more(stream)
    head, _, rest = received.partition(b"\r\n\r\n")
    status_line, *fields = head.decode().lower().split("\r\n")
    values = dict(line.split(": ", 1) for line in fields)
    while len(rest) < int(values["content-length"]):
        rest += await _more(stream)
    return int(status_line.split()[1]), rest, values.get("connection") != "close"


async def _more(stream: trio.SocketStream) -> bytes:
    if not (chunk := await stream.receive_some()):
        raise trio.BrokenResourceError("the connection ended before the answer")
    return bytes(chunk)


def _has_news(stream: trio.SocketStream) -> bool:
    """Tell whether an idle connection has something to read: then the daemon has closed it."""
    return bool(select.select([stream.socket], [], [], 0)[0])


async def get_status(address: Address, path: str) -> int | None:
    """Return the status of a page on a fresh connection, None when nobody answers within 2 s."""
    try:
        with trio.fail_after(2):
            async with await trio.open_tcp_stream(*address) as stream:
                return (await exchange(stream, "GET", path, {}))[0]
    except (OSError, trio.BrokenResourceError, trio.TooSlowError):
        return None


@contextmanager
def in_time(within_s: float, what: str) -> Iterator[None]:
    """Bound a wait. Raises: AssertionError with ``what`` was waited for when it took longer."""
    with trio.move_on_after(within_s) as bound:
        yield
    if bound.cancelled_caught:
        raise AssertionError(f"{what}: not within {within_s:g} s")


@define(eq=False)
class Load:
    """Delivers events from ``concurrency`` workers to the daemons in turn, until stopped.

    An event that was not acknowledged is delivered again, to the next daemon, as Stripe would; a
    worker waits ``patience_s`` for an answer. ``committed`` says that any 200 acknowledges, not
    only one that tells of the ledger.
    """

    addresses: Sequence[Address]
    secret: str
    account_ids: Sequence[str]
    concurrency: int
    committed: bool
    patience_s: float
    sent: dict[str, Sent] = field(factory=dict, init=False)
    answers: list[Answer] = field(factory=list, init=False)
    acknowledged: set[str] = field(factory=set, init=False)
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)
    _stopped: trio.Event = field(factory=trio.Event, init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)

    async def run(self) -> None:
        """Deliver until stopped; each worker then gives its last event one more try."""
        async with trio.open_nursery() as nursery:
            for worker in range(self.concurrency):
                nursery.start_soon(self._work, worker)

    def stop(self) -> None:
        """Send no new events."""
        self._stopped.set()

    async def acknowledges(self, count: int, *, within_s: float = 30.0) -> None:
        """Wait until this many more events are acknowledged."""
        goal = len(self.acknowledged) + count
        with in_time(within_s, f"{count} more acknowledged events"):
            while len(self.acknowledged) < goal:
                self._news = trio.Event()
                await self._news.wait()

    def outcomes(self, since: float = -math.inf) -> Counter[int | str]:
        """Return how often each outcome came up among deliveries begun ``since`` then."""
        return Counter(answer.outcome for answer in self.answers if answer.begun_at >= since)

    def p99_s(self) -> float:
        """Return the 99th percentile of the time to an answer of any status."""
        took = sorted(a.took_s for a in self.answers if isinstance(a.outcome, int))
        return took[math.ceil(0.99 * len(took)) - 1]

    async def _work(self, worker: int) -> None:
        streams: dict[Address, trio.SocketStream] = {}
        try:
            for turn in itertools.count(worker):
                if self._stopped.is_set():
                    return
                sent = self._next()
                for address in self._in_turn(turn):
                    await self._deliver(sent, address, streams)
                    if sent.event_id in self.acknowledged or self._stopped.is_set():
                        break
                    with trio.move_on_after(PAUSE_S):
                        await self._stopped.wait()
        finally:
            for stream in streams.values():
                stream.socket.close()

    def _in_turn(self, first: int) -> Iterator[Address]:
        return (self.addresses[n % len(self.addresses)] for n in itertools.count(first))

    def _next(self) -> Sent:
        number = next(self._numbers)
        plan = EventPlan(
            event_type="payment_intent.succeeded",
            account_id=self.account_ids[number % len(self.account_ids)],
            amount_minor=number + 1,
            currency="usd",
            livemode=False,
            created_s=int(time.time()),
            event_id=f"evt_{number}",
            object_id=f"pi_{number}",
        )
        body = json.dumps(stripe_event(plan)).encode()
        sent = Sent(plan.event_id, plan.object_id, plan.account_id, plan.amount_minor, body)
        self.sent[sent.event_id] = sent
        return sent

    async def _deliver(
        self, sent: Sent, address: Address, streams: dict[Address, trio.SocketStream]
    ) -> None:
        begun_at = trio.current_time()
        outcome: int | str = LATE
        keep, is_kept = False, True
        if address in streams and _has_news(streams[address]):
            streams.pop(address).socket.close()
        with trio.move_on_after(self.patience_s):
            try:
                if address not in streams:
                    is_kept = False
                    streams[address] = await trio.open_tcp_stream(*address)
            except OSError:
                outcome = REFUSED
            else:
                try:
                    outcome, keep = await self._post(sent, streams[address])
                except (OSError, trio.BrokenResourceError):
                    outcome = CLOSED if is_kept else CUT
        if not keep and address in streams:
            streams.pop(address).socket.close()
        self.answers.append(
            Answer(sent.event_id, outcome, begun_at, trio.current_time() - begun_at)
        )

    async def _post(self, sent: Sent, stream: trio.SocketStream) -> tuple[int, bool]:
        signature = signature_header(sent.body, secret=self.secret, timestamp_s=int(time.time()))
        status, body, keep = await exchange(
            stream, "POST", "/v1/stripe/webhook", {"stripe-signature": signature}, sent.body
        )
        if status == 200 and (self.committed or json.loads(body)["forwarded_to_ledger"]):
            self.acknowledged.add(sent.event_id)
            self._news.set()
        return status, keep
