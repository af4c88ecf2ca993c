"""A closed-loop load generator: one process, one thread, raw sockets, requests made beforehand.

It reads one job as JSON from stdin and prints one result as JSON. Everything that costs time is
done before the clock starts: requests are built and signed, so that what runs during the
measurement is a send, a receive and a search for the end of the answer.
"""

import hashlib
import hmac
import json
import os
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import cattrs
from attrs import define, field, frozen

from bench.ledger_traffic import LedgerTraffic
from bench.loss_traffic import LossTraffic
from bench.payout_traffic import PayoutTraffic, paid_template
from clawsettle.sandbox.stripe_events import EventPlan, stripe_event
from clawsettle.sandbox.stripe_objects import stripe_id

EVENT_BYTES = 1700
RATE_MAX = 5000
"""Requests are made for this many a second; a faster server would run out of them."""

_EVENT_ID, _OBJECT_ID, _ACCOUNT_ID = "evt_" + "0" * 24, "pi_" + "0" * 24, "acc_" + "0" * 8
_TICKS = os.sysconf("SC_CLK_TCK")
_RECEIVE_BYTES = 64 * 1024


@frozen
class Job:
    """What to send and how.

    ``traffic`` is ``distinct`` (each event once), ``replay`` (one event for ever) or ``forged``
    (distinct events, wrongly signed); with ``ledger``, ``payouts`` or ``losses`` it is that
    instead. ``account_ids`` are those of the accounts it is about, DIDs of ``losses``. ``secret``
    is the key of whoever is asked, or what events are signed with. ``seconds`` are measured after
    ``warm_up_s``. With ``requests_max`` the run ends when that many were answered, all of them
    measured. ``pids`` are processes whose CPU time is told, each with that of its children.
    """

    port: int
    concurrency: int
    seconds: float
    secret: str
    account_ids: Sequence[str] = ()
    traffic: Literal["distinct", "replay", "forged"] = "distinct"
    ledger: LedgerTraffic | None = None
    payouts: PayoutTraffic | None = None
    losses: LossTraffic | None = None
    warm_up_s: float = 1.0
    requests_max: int | None = None
    pids: Sequence[int] = ()


@frozen
class Result:
    """What came of a job: answers by status, requests/s, latencies in ms, CPU µs a request.

    ``began_at`` is when the measured part did, on CLOCK_MONOTONIC, which all processes share.
    ``cpu_us`` has one figure for each of the job's ``pids``; ``generator_busy`` is the
    share of the time in which the generator itself used a core: near 1 it is the bottleneck.
    """

    began_at: float
    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    cpu_us: Sequence[float]
    generator_busy: float
    closed_count: int


def requests_of(job: Job, count: int) -> list[Iterator[bytes]]:
    """Return for each client its share of ``count`` whole HTTP requests, signed now."""
    requests = list(_requests(job, count))
    return [iter(requests[client :: job.concurrency]) for client in range(job.concurrency)]


def _requests(job: Job, count: int) -> Iterator[bytes]:
    if job.ledger is not None:
        return _ledger_requests(job, job.ledger, count)
    if job.losses is not None:
        return _losses(job, job.losses, count)
    if job.payouts is None:
        return _signed(job, _events(job, count))
    if job.payouts.kind == "create":
        return _orders(job, job.payouts, count)
    template, paid = paid_template(), job.payouts.event
    return _signed(
        job, (paid(number, _account_id(job, number), template) for number in range(count))
    )


def _events(job: Job, count: int) -> Iterator[bytes]:
    template = _event_template()
    series = stripe_id("x").removeprefix("x_1")[:14]
    for number in range(count):
        serial = f"{series}{0 if job.traffic == 'replay' else number:010d}"
        yield (
            template.replace(_EVENT_ID, f"evt_{serial}")
            .replace(_OBJECT_ID, f"pi_{serial}")
            .replace(_ACCOUNT_ID, _account_id(job, number))
            .encode()
        )


def _signed(job: Job, events: Iterable[bytes]) -> Iterator[bytes]:
    timestamp = int(time.time())
    secret = ("whsec_forged" if job.traffic == "forged" else job.secret).encode()
    for body in events:
        digest = hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()
        head = (
            f"POST /v1/stripe/webhook HTTP/1.1\r\nhost: 127.0.0.1:{job.port}\r\n"
            "user-agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\naccept: */*\r\n"
            "content-type: application/json; charset=utf-8\r\ncache-control: no-cache\r\n"
            f"content-length: {len(body)}\r\nstripe-signature: t={timestamp},v1={digest}\r\n\r\n"
        )
        yield head.encode() + body


def _ledger_requests(job: Job, traffic: LedgerTraffic, count: int) -> Iterator[bytes]:
    for number in range(count):
        turn, client = divmod(number, job.concurrency)
        path, fields = traffic.request(client, turn)
        yield _post(job, path, "", json.dumps(fields).encode())


def _orders(job: Job, traffic: PayoutTraffic, count: int) -> Iterator[bytes]:
    for number in range(count):
        key, body = traffic.order(number, _account_id(job, number))
        yield _post(job, "/v1/payouts", f"idempotency-key: {key}\r\n", body)


def _losses(job: Job, traffic: LossTraffic, count: int) -> Iterator[bytes]:
    for number in range(count):
        key, body = traffic.order(number, _account_id(job, number))
        yield _post(job, "/v1/loss-events", f"idempotency-key: {key}\r\n", body)


def _post(job: Job, path: str, header: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{job.port}\r\naccept: */*\r\n"
        f"authorization: Bearer {job.secret}\r\ncontent-type: application/json\r\n{header}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _account_id(job: Job, number: int) -> str:
    return job.account_ids[number % len(job.account_ids)]


def _event_template() -> str:
    plan = EventPlan(
        event_type="payment_intent.succeeded",
        account_id=_ACCOUNT_ID,
        amount_minor=2500,
        currency="usd",
        livemode=True,
        created_s=int(time.time()),
        event_id=_EVENT_ID,
        object_id=_OBJECT_ID,
    )
    event = {**stripe_event(plan), "padding": ""}
    return json.dumps({**event, "padding": "x" * max(0, EVENT_BYTES - len(json.dumps(event)))})


@define(eq=False)
class _Connection:
    """One client: it sends its next request when it has the whole answer to the last."""

    socket: socket.socket
    waiting: Iterator[bytes]
    sent_at: float = 0.0
    received: bytes = b""

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def take(self, data: bytes) -> str | None:
        """Return the status once the answer is whole."""
        self.received += data
        head_end = self.received.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        head = self.received[:head_end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self.received) < head_end + 4 + length:
            return None
        self.received = b""
        return head[9:12].decode()


@define(eq=False)
class Clock:
    """The measured part of a run: it begins once, with the CPU times of that moment."""

    pids: Sequence[int]
    began_at: float = 0.0
    _cpu_s: list[float] = field(factory=list)
    _own_s: float = 0.0

    def begin(self) -> None:
        """Begin the measured part."""
        self.began_at = time.perf_counter()
        self._cpu_s = [_cpu_s(pid) for pid in self.pids]
        self._own_s = time.process_time()

    def end(self, latencies_s: list[float], statuses: dict[str, int], closed_count: int) -> Result:
        """Return the figures of the measured part, which ends here."""
        seconds = time.perf_counter() - self.began_at
        used = [_cpu_s(pid) - was for pid, was in zip(self.pids, self._cpu_s, strict=True)]
        count = len(latencies_s)
        latencies_s.sort()
        return Result(
            began_at=self.began_at,
            requests=count,
            rate=round(count / seconds, 1),
            p50_ms=_quantile_ms(latencies_s, 0.5),
            p99_ms=_quantile_ms(latencies_s, 0.99),
            statuses=statuses,
            cpu_us=[round(cpu_s / max(count, 1) * 1e6, 1) for cpu_s in used],
            generator_busy=round((time.process_time() - self._own_s) / seconds, 3),
            closed_count=closed_count,
        )


def run(job: Job) -> Result:
    """Drive the load and measure it."""
    most = job.requests_max or int((job.seconds + job.warm_up_s) * RATE_MAX)
    clients = requests_of(job, most)
    selector = selectors.DefaultSelector()
    statuses: Counter[str] = Counter()
    latencies_s: list[float] = []
    clock = Clock(job.pids)
    begun = time.perf_counter()
    measured_from = begun if job.requests_max else begun + job.warm_up_s
    ends = float("inf") if job.requests_max else measured_from + job.seconds
    if job.requests_max:
        clock.begin()
    for waiting in clients:
        connection = _Connection(socket.create_connection(("127.0.0.1", job.port)), waiting)
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        if (request := next(waiting, None)) is not None:
            connection.send(request)
    closed_count = 0
    while selector.get_map():
        for key, _ in selector.select():
            connection = key.data
            data = connection.socket.recv(_RECEIVE_BYTES)
            now = time.perf_counter()
            if data and (status := connection.take(data)) is None:
                continue
            if not clock.began_at and now >= measured_from:
                clock.begin()
            if data and clock.began_at and connection.sent_at >= measured_from:
                statuses[status] += 1
                latencies_s.append(now - connection.sent_at)
            closed_count += not data
            request = next(connection.waiting, None) if data and now < ends else None
            if request is None:
                selector.unregister(connection.socket)
                connection.socket.close()
            else:
                connection.send(request)
    return clock.end(latencies_s, dict(statuses), closed_count)


def _quantile_ms(ordered_s: Sequence[float], share: float) -> float:
    if not ordered_s:
        return 0.0
    return round(ordered_s[min(len(ordered_s) - 1, int(len(ordered_s) * share))] * 1000, 2)


def _cpu_s(pid: int) -> float:
    """Return the CPU time a process and its living children have used so far, in seconds."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    used = 0
    for member in (pid, *children):
        with suppress(FileNotFoundError):  # a child that has just ended
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
    return used / _TICKS


if __name__ == "__main__":
    json.dump(cattrs.unstructure(run(cattrs.structure(json.load(sys.stdin), Job))), sys.stdout)
