"""A load from many workers, which remembers every answer, and the one of distinct signed events.

Plain HTTP/1.1 over trio: a refused connection, one that ends before the answer and an answer that
does not come are three different things here.
"""

import itertools
import json
import math
import select
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import trio
from attrs import define, field, frozen

from clawsettle.sandbox.stripe_events import EventPlan, signature_header, stripe_event
from tests.house import Json

PAUSE_S = 0.05
ANSWERED_MAX_S = 20.0
DONE = frozenset({200, 201})
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
    """What one request came to; times in seconds. ``body`` is there when ``outcome`` is a status.

    ``outcome`` is the status, or ``refused``, ``closed`` (a connection kept from the request before
    ended instead of an answer), ``cut`` (a fresh one did) or ``late`` (no answer in time).
    """

    outcome: int | str
    body: bytes
    begun_at: float
    took_s: float


async def exchange(
    stream: trio.SocketStream, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
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
class Client:
    """Sends requests, any number at once, over connections that it keeps; waits ``patience_s``."""

    patience_s: float
    _idle: defaultdict[Address, list[trio.SocketStream]] = field(
        factory=lambda: defaultdict(list), init=False
    )

    async def post(
        self, address: Address, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Send one request and return what it came to, whatever that is."""
        begun_at = trio.current_time()
        outcome: int | str = LATE
        answer, keep = b"", False
        stream = self._kept(address)
        is_kept = stream is not None
        try:
            with trio.move_on_after(self.patience_s):
                try:
                    stream = stream or await trio.open_tcp_stream(*address)
                except OSError:
                    outcome = REFUSED
                else:
                    try:
                        outcome, answer, keep = await exchange(stream, "POST", path, headers, body)
                    except (OSError, trio.BrokenResourceError):
                        outcome = CLOSED if is_kept else CUT
        finally:
            if stream is not None and keep:
                self._idle[address].append(stream)
            elif stream is not None:
                stream.socket.close()
        return Answer(outcome, answer, begun_at, trio.current_time() - begun_at)

    def close(self) -> None:
        for stream in itertools.chain.from_iterable(self._idle.values()):
            stream.socket.close()

    def _kept(self, address: Address) -> trio.SocketStream | None:
        """Return a connection to use again, unless the daemon has closed them."""
        while self._idle[address]:
            stream = self._idle[address].pop()
            if not _has_news(stream):
                return stream
            stream.socket.close()
        return None


@define(eq=False, kw_only=True)
class Load(ABC):
    """Sends requests from ``concurrency`` workers to the daemons, until stopped.

    A worker waits ``patience_s`` for an answer. What was not answered for good is sent again, to
    the next daemon. ``acknowledged`` has the names of what was.
    """

    addresses: Sequence[Address]
    concurrency: int
    patience_s: float
    answers: list[Answer] = field(factory=list, init=False)
    acknowledged: set[str] = field(factory=set, init=False)
    _stopped: trio.Event = field(factory=trio.Event, init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)

    @property
    @abstractmethod
    def sent_count(self) -> int:
        """How many different things were sent."""

    async def run(self) -> None:
        """Send until stopped; each worker then finishes what it is at."""
        async with trio.open_nursery() as nursery:
            for worker in range(self.concurrency):
                nursery.start_soon(self._employ, worker)

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopped.set()

    async def acknowledges(self, count: int, *, within_s: float = 30.0) -> None:
        """Wait until this many more of what was sent are acknowledged."""
        goal = len(self.acknowledged) + count
        with in_time(within_s, f"{count} more acknowledgements"):
            while len(self.acknowledged) < goal:
                self._news = trio.Event()
                await self._news.wait()

    def outcomes(self, since: float = -math.inf) -> Counter[int | str]:
        """Return how often each outcome came up among requests begun ``since`` then."""
        return Counter(answer.outcome for answer in self.answers if answer.begun_at >= since)

    def p99_s(self) -> float:
        """Return the 99th percentile of the time to an answer of any status."""
        took = sorted(a.took_s for a in self.answers if isinstance(a.outcome, int))
        return took[math.ceil(0.99 * len(took)) - 1]

    @abstractmethod
    async def _work(self, worker: int, client: Client) -> None:
        """Send requests until stopped."""

    async def _employ(self, worker: int) -> None:
        client = Client(self.patience_s)
        try:
            await self._work(worker, client)
        finally:
            client.close()

    def _acknowledge(self, name: str) -> None:
        self.acknowledged.add(name)
        self._news.set()

    def _in_turn(self, first: int) -> Iterator[Address]:
        """Return the daemons one after another, endlessly; they may change meanwhile."""
        return (self.addresses[n % len(self.addresses)] for n in itertools.count(first))


@define(eq=False, kw_only=True)
class InsistentLoad(Load):
    """Asks each thing until it is answered for good, of one daemon after another.

    ``key`` opens the routes that are the admin's, ``secret`` signs events. ``unanswered`` has what
    nobody has answered in time.
    """

    key: str
    secret: str
    unanswered: list[str] = field(factory=list, init=False)

    async def deliver(
        self, client: Client, turn: int, event: Json, settled: frozenset[int] = DONE
    ) -> Answer | None:
        """Deliver a signed event until it is recorded."""
        body = json.dumps(event).encode()
        signature = signature_header(body, secret=self.secret, timestamp_s=int(time.time()))
        headers = {"stripe-signature": signature}
        return await self._insist(client, turn, "/v1/stripe/webhook", headers, body, settled)

    async def ask(
        self,
        client: Client,
        turn: int,
        path: str,
        key: str,
        body: Json,
        settled: frozenset[int] = DONE,
    ) -> Answer | None:
        """Ask under a key until it is answered for good."""
        headers = {
            "authorization": f"Bearer {self.key}",
            "idempotency-key": key,
            "content-type": "application/json",
        }
        return await self._insist(client, turn, path, headers, json.dumps(body).encode(), settled)

    async def _insist(
        self,
        client: Client,
        turn: int,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        settled: frozenset[int],
    ) -> Answer | None:
        with trio.move_on_after(ANSWERED_MAX_S):
            for address in self._in_turn(turn):
                answer = await client.post(address, path, headers, body)
                self.answers.append(answer)
                if answer.outcome in settled:
                    return answer
                await trio.sleep(PAUSE_S)
        self.unanswered.append(f"{path} {body[:200].decode()}")
        return None


@define(eq=False, kw_only=True)
class EventLoad(Load):
    """Delivers distinct signed events, each again until it is acknowledged, as Stripe would.

    ``committed`` says that any 200 acknowledges, not only one that tells of the ledger.
    """

    secret: str
    account_ids: Sequence[str]
    committed: bool
    sent: dict[str, Sent] = field(factory=dict, init=False)
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)

    @property
    def sent_count(self) -> int:
        return len(self.sent)

    async def _work(self, worker: int, client: Client) -> None:
        for turn in itertools.count(worker):
            if self._stopped.is_set():
                return
            sent = self._next()
            for address in self._in_turn(turn):
                await self._deliver(sent, address, client)
                if sent.event_id in self.acknowledged or self._stopped.is_set():
                    break
                with trio.move_on_after(PAUSE_S):
                    await self._stopped.wait()

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

    async def _deliver(self, sent: Sent, address: Address, client: Client) -> None:
        signature = signature_header(sent.body, secret=self.secret, timestamp_s=int(time.time()))
        answer = await client.post(
            address, "/v1/stripe/webhook", {"stripe-signature": signature}, sent.body
        )
        self.answers.append(answer)
        if answer.outcome == 200 and (
            self.committed or json.loads(answer.body)["forwarded_to_ledger"]
        ):
            self._acknowledge(sent.event_id)
