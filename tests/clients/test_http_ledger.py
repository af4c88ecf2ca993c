"""A ledger behind HTTP: the real one over a real socket, and strangers that answer anything."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
import trio
from attrs import define, field

from clawsettle.clients.ledger import HttpLedger
from clawsettle.config import Secret
from clawsettle.domain.forwarding import Accepted, Forwardable, LedgerOutcome, Refused, Unknown
from clawsettle.http.server import serve_http
from clawsettle.http.surface import AsgiApp
from tests.house import House, open_house, payin, settings

ALICE = "acc_32ca986a"
SENT = Forwardable(
    "stripe:event:evt_1",
    {
        "provider": "stripe",
        "external_payment_id": "pi_1",
        "direction": "payin",
        "status": "confirmed",
        "account_id": ALICE,
        "amount_minor": "100",
        "currency": "USD",
        "metadata": {"note": "größer"},
    },
)
OURS = {"settlement": {**SENT.payload, "id": "set_1"}}

React = Callable[[trio.SocketStream], Awaitable[None]]


@define(eq=False)
class Stranger:
    """A server that reads one request a connection and then does what the test says."""

    react: React
    base_url: str = ""
    heads: list[str] = field(factory=list)
    bodies: list[bytes] = field(factory=list)
    hung_up: trio.Event = field(factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        data = b""
        async with stream:
            while b"\r\n\r\n" not in data:
                if not (chunk := await stream.receive_some(65536)):
                    return
                data += chunk
            head, _, body = data.partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(body) < length:
                body += await stream.receive_some(65536)
            self.bodies.append(body)
            try:
                await self.react(stream)
            except trio.BrokenResourceError:
                self.hung_up.set()


@asynccontextmanager
async def stranger(react: React) -> AsyncIterator[Stranger]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made = Stranger(react, f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, made.serve, [listener])
        yield made
        nursery.cancel_scope.cancel()


def answering(status: int, body: bytes, *headers: str) -> React:
    """Answer well-formed HTTP."""
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers]
    return saying("\r\n".join([*lines, "", ""]).encode() + body)


def saying(data: bytes) -> React:
    """Say these bytes and hang up."""

    async def say(stream: trio.SocketStream) -> None:
        await stream.send_all(data)

    return say


async def hang(stream: trio.SocketStream) -> None:
    """Answer nothing until the client has gone."""
    if not await stream.receive_some(1):
        raise trio.BrokenResourceError


@asynccontextmanager
async def ledger_at(base_url: str, **options: float) -> AsyncIterator[HttpLedger]:
    bounds: dict[str, Any] = {"connect_timeout_s": 1, "read_timeout_s": 5, "connections_max": 4}
    ledger = HttpLedger(base_url, "ledger_house", **{**bounds, **options})
    try:
        yield ledger
    finally:
        await ledger.close()


async def sent_to(react: React, **options: float) -> LedgerOutcome:
    async with stranger(react) as server, ledger_at(server.base_url, **options) as ledger:
        with trio.fail_after(10):
            (outcome,) = await ledger.ingest([SENT])
    return outcome


async def free_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


@asynccontextmanager
async def ledger_port(house: House) -> AsyncIterator[str]:
    """Serve a house's ledger on a socket."""
    app, stop = cast("AsgiApp", house.parts.ledger_app), trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_http, app, host="127.0.0.1", port=0, drain_s=1, stop=stop)
        port = await nursery.start(serve)
        yield f"http://127.0.0.1:{port}"
        stop.set()


@asynccontextmanager
async def remote_house(database_url: str, base_url: str) -> AsyncIterator[House]:
    """Open a house whose ledger is behind ``base_url``; it only polls once, at its start."""
    configured = settings(
        ledger={
            "mode": "http",
            "base_url": base_url,
            "admin_keys": (Secret("ledger_house"),),
            "connect_timeout_s": 1.0,
        },
        forwarding={"poll_s": 3600.0},
    )
    async with open_house(database_url, configured) as house:
        assert house.parts.http_ledger is not None
        try:
            yield house
        finally:
            await house.parts.http_ledger.close()


@pytest.fixture
def other_database_url(postgres: Any) -> str:
    """The address of a second migrated database."""
    return str(postgres.server.dsn_of(postgres.create_database("migrated")))


async def test_the_embedded_ledger_is_understood_over_its_port(database_url: str) -> None:
    async with (
        open_house(database_url) as house,
        ledger_port(house) as base_url,
        ledger_at(base_url) as ledger,
    ):
        assert await ledger.ingest([SENT]) == [
            Refused(404, "the ledger answered 404 NOT_FOUND", "NOT_FOUND")
        ]
        await house.open_account()
        (first,) = await ledger.ingest([SENT])
        (settlement,) = await house.settlements("pi_1")
        assert first == Accepted(201, settlement["id"])
        assert settlement["metadata"] == {"note": "größer"}
        assert await ledger.ingest([SENT]) == [Accepted(200, settlement["id"])]
        other = Forwardable(SENT.key, {**SENT.payload, "amount_minor": "7"})
        (refused,) = await ledger.ingest([other])
        assert isinstance(refused, Refused)
        assert (refused.ledger_status, refused.code) == (409, "IDEMPOTENCY_KEY_REUSED")
        assert await house.available(ALICE) == 100


async def test_the_request_is_what_the_contract_says() -> None:
    async with (
        stranger(answering(201, json.dumps(OURS).encode())) as server,
        ledger_at(f"{server.base_url}/books") as ledger,
    ):
        assert await ledger.ingest([SENT]) == [Accepted(201, "set_1")]
    line, *headers = server.heads[0].split("\r\n")
    assert line == "POST /books/v1/payments/settlements/ingest HTTP/1.1"
    named = {name.lower(): value for name, value in (header.split(": ") for header in headers)}
    assert named["content-type"] == "application/json; charset=utf-8"
    assert named["authorization"] == "Bearer ledger_house"
    assert named["idempotency-key"] == "stripe:event:evt_1"
    assert json.loads(server.bodies[0]) == SENT.payload
    assert "größer".encode() in server.bodies[0]


async def test_several_settlements_are_answered_in_order() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        settlement = {**json.loads(server.bodies[-1]), "id": f"set_{len(server.bodies)}"}
        body = json.dumps({"settlement": settlement}).encode()
        await answering(201, body)(stream)

    many = [Forwardable(f"k{n}", {**SENT.payload, "amount_minor": f"{n}"}) for n in (1, 2, 3)]
    async with stranger(echo) as server, ledger_at(server.base_url) as ledger:
        # The server hangs up after each answer, so the kept connection is replaced each time.
        outcomes = await ledger.ingest(many)
    assert outcomes == [Accepted(201, f"set_{n}") for n in (1, 2, 3)]


_NO_ANSWER: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "RemoteProtocolError"),
    "garbage": (b"\x16\x03garbage\r\n\r\n", "RemoteProtocolError"),
    "half a body": (b"HTTP/1.1 201 OK\r\ncontent-length: 9\r\n\r\n{", "RemoteProtocolError"),
    "half a chunk": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}",
        "RemoteProtocolError",
    ),
    "a lie about gzip": (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        "DecodingError",
    ),
}


@pytest.mark.parametrize(("said", "fault"), _NO_ANSWER.values(), ids=_NO_ANSWER.keys())
async def test_what_is_no_answer_is_unknown(said: bytes, fault: str) -> None:
    assert await sent_to(saying(said)) == Unknown(f"no answer from the ledger: {fault}")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b""), (200, b"<html>"), (204, b""), (200, b"[" * 9000), (201, b'{"ok":true}')],
)
async def test_a_success_without_a_settlement_is_unknown(status: int, body: bytes) -> None:
    outcome = await sent_to(answering(status, body))
    assert outcome == Unknown("the ledger's answer names no settlement", status)


async def test_a_settlement_without_an_id_is_unknown() -> None:
    body = json.dumps({"settlement": dict(SENT.payload)}).encode()
    outcome = await sent_to(answering(201, body))
    assert outcome == Unknown("the ledger's answer names no settlement id", 201)


async def test_an_answer_beyond_all_measure_is_not_read_to_its_end() -> None:
    async def pour(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
        while True:
            await stream.send_all(b" " * 65536)

    assert await sent_to(pour) == Unknown("the ledger's answer is too large", 200)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b'{"error":"ledger_house?","code":"UNAUTHORIZED"}', "UNAUTHORIZED"),
        (404, b'{"code":"NOT_FOUND"}', "NOT_FOUND"),
        (409, b'{"code":"DUPLICATE_CONFLICT"}', "DUPLICATE_CONFLICT"),
        (422, b'{"code":"two\\nlines"}', None),
        (500, b"Traceback (most recent call last)", None),
        (503, b"[]", None),
    ],
)
async def test_a_refusal_is_told_by_its_status_and_code(
    status: int, body: bytes, code: str | None
) -> None:
    message = f"the ledger answered {status} {code or 'without a code'}"
    assert await sent_to(answering(status, body)) == Refused(status, message, code)


@pytest.mark.parametrize(
    "name",
    ["provider", "external_payment_id", "direction", "account_id", "amount_minor", "currency"],
)
async def test_a_success_about_something_else_is_no_success(name: str) -> None:
    body = {"settlement": {**OURS["settlement"], name: "other"}}
    outcome = await sent_to(answering(201, json.dumps(body).encode()))
    assert outcome == Unknown(f"the ledger's answer is about another {name}", 201)


async def test_a_ledger_that_is_not_there_is_unknown() -> None:
    async with ledger_at(f"http://127.0.0.1:{await free_port()}") as ledger:
        assert await ledger.ingest([SENT]) == [Unknown("no answer from the ledger: ConnectError")]


async def test_a_ledger_that_answers_too_slowly_is_unknown() -> None:
    assert await sent_to(hang, read_timeout_s=0.2) == Unknown(
        "no answer from the ledger: ReadTimeout"
    )


async def test_a_caller_that_gives_up_hangs_up_and_can_call_again() -> None:
    async with stranger(hang) as server, ledger_at(server.base_url, connections_max=1) as ledger:
        with trio.move_on_after(0.2) as scope:
            await ledger.ingest([SENT])
        assert scope.cancelled_caught
        with trio.fail_after(5):
            await server.hung_up.wait()
        server.react = answering(201, json.dumps(OURS).encode())
        with trio.fail_after(5):
            assert await ledger.ingest([SENT]) == [Accepted(201, "set_1")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_refused_and_the_key_is_sent_nowhere_else(status: int) -> None:
    async with stranger(answering(201, json.dumps(OURS).encode())) as thief:
        react = answering(status, b"", f"location: {thief.base_url}/v1")
        outcome = await sent_to(react)
    assert outcome == Refused(status, f"the ledger answered {status} without a code")
    assert thief.heads == []


async def test_the_environments_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stranger(answering(200, b"{}")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.base_url)
        assert await sent_to(answering(201, json.dumps(OURS).encode())) == Accepted(201, "set_1")
    assert proxy.heads == []


def test_the_key_does_not_show() -> None:
    ledger = HttpLedger("http://127.0.0.1:1", "ledger_house", 1, 1, 1)
    assert "ledger_house" not in repr(ledger)


async def test_a_daemon_forwards_to_another_daemons_ledger(
    database_url: str, other_database_url: str
) -> None:
    async with (
        open_house(other_database_url) as far,
        ledger_port(far) as base_url,
        remote_house(database_url, base_url) as near,
    ):
        refused = await near.deliver(payin("evt_1", ALICE))
        assert refused.status_code == 502
        assert refused.json()["details"]["ledger_status"] == 404
        assert await far.open_account() == ALICE
        retried = await near.retry(event_id="evt_1", force=True)
        assert retried == {"ok": True, "attempted": 1, "forwarded": 1, "failed": 0}
        replay = (await near.deliver(payin("evt_1", ALICE))).json()
        assert (replay["deduped"], replay["forwarded_to_ledger"]) == (True, True)
        direct = (await near.deliver(payin("evt_2", ALICE))).json()
        assert (direct["forwarded_to_ledger"], direct["ledger_status"]) == (True, 201)
        for body in (replay, direct):
            (settlement,) = await far.settlements(f"pi_{body['event_id']}")
            assert settlement["id"] == body["settlement_id"]
        assert await far.available(ALICE) == 5000
        assert near.parts.ledger_app is None


async def test_a_ledger_that_is_down_is_answered_for_without_a_status(database_url: str) -> None:
    async with remote_house(database_url, f"http://127.0.0.1:{await free_port()}") as house:
        answer = await house.deliver(payin("evt_1", ALICE))
        assert answer.status_code == 502
        assert answer.json()["code"] == "LEDGER_INGEST_FAILED"
        assert list(answer.json()["details"]) == ["event_id", "retry_scheduled", "next_retry_at"]
        row = await house.row("evt_1")
        assert (row["state"], row["ledger_status"]) == ("failed", None)
        assert (await house.retry(force=True))["failed"] == 1
