"""A ledger behind HTTP: the real one over a real socket, and strangers that answer anything."""

import gzip
import json

import pytest
import trio
from attrs import evolve

from clawsettle.clients.ledger import HttpLedger
from clawsettle.domain.forwarding import Accepted, Forwardable, LedgerOutcome, Refused, Unknown
from tests.clients.faulty import Fault, Wire, answering, faulty, hang, pouring, saying
from tests.clients.ledgers import ALICE, OURS, SENT, ledger_at, ledger_port, remote
from tests.house import open_house, payin


async def sent_to(fault: Fault, **options: float) -> LedgerOutcome:
    async with faulty(None, [fault]) as server, ledger_at(server.base_url, **options) as ledger:
        with trio.fail_after(10):
            (outcome,) = await ledger.ingest([SENT])
    return outcome


async def free_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


async def test_the_request_is_what_the_contract_says() -> None:
    async with (
        faulty(None, [answering(201, json.dumps(OURS).encode())]) as server,
        ledger_at(f"{server.base_url}/books") as ledger,
    ):
        assert await ledger.ingest([SENT]) == [Accepted(201, "set_1")]
    line, *headers = server.heads[0].split("\r\n")
    assert line == "POST /books/v1/payments/settlements/ingest HTTP/1.1"
    named = {name.lower(): value for name, value in (header.split(": ") for header in headers)}
    assert set(named) == {
        "host",
        "accept-encoding",
        "content-length",
        "content-type",
        "authorization",
        "idempotency-key",
    }
    assert named["host"] == server.base_url.removeprefix("http://")
    assert named["accept-encoding"] == "identity"
    assert named["content-type"] == "application/json; charset=utf-8"
    assert named["authorization"] == "Bearer ledger_house"
    assert named["idempotency-key"] == "stripe:event:evt_1"
    assert json.loads(server.bodies[0]) == SENT.payload
    assert "größer".encode() in server.bodies[0]


async def test_the_link_from_a_refund_to_its_payin_stays_at_home() -> None:
    refund = evolve(SENT, payload={**SENT.payload, "refund_of": "pi_1"})
    async with (
        faulty(None, [answering(201, json.dumps(OURS).encode())]) as server,
        ledger_at(server.base_url) as ledger,
    ):
        assert await ledger.ingest([refund]) == [Accepted(201, "set_1")]
    assert json.loads(server.bodies[0]) == SENT.payload


async def test_several_settlements_are_answered_in_order() -> None:
    async def echo(wire: Wire) -> None:
        settlement = {**json.loads(server.bodies[-1]), "id": f"set_{len(server.bodies)}"}
        body = json.dumps({"settlement": settlement}).encode()
        await answering(201, body)(wire)

    many = [Forwardable(f"k{n}", {**SENT.payload, "amount_minor": f"{n}"}) for n in (1, 2, 3)]
    async with faulty(None, [echo] * 3) as server, ledger_at(server.base_url) as ledger:
        # The server hangs up after each answer, so the kept connection is replaced each time.
        outcomes = await ledger.ingest(many)
    assert outcomes == [Accepted(201, f"set_{n}") for n in (1, 2, 3)]


_OK = b"HTTP/1.1 200 OK\r\n"
_NO_HTTP = "RemoteProtocolError"
_NO_ANSWER: dict[str, tuple[bytes, str, int | None]] = {
    "nothing": (b"", _NO_HTTP, None),
    "garbage": (b"\x16\x03garbage\r\n\r\n", _NO_HTTP, None),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", _NO_HTTP, None),
    "half a head": (_OK + b"content-le", _NO_HTTP, None),
    "only an interim answer": (b"HTTP/1.1 102 Processing\r\n\r\n", _NO_HTTP, None),
    "a switch of protocols": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", _NO_HTTP, None),
    "half a body": (_OK + b"content-length: 9\r\n\r\n{", _NO_HTTP, 200),
    "half a chunk": (_OK + b"transfer-encoding: chunked\r\n\r\n5\r\n{}", _NO_HTTP, 200),
    "a chunk of no size": (_OK + b"transfer-encoding: chunked\r\n\r\nx\r\n{}", _NO_HTTP, 200),
    "a chunk below zero": (_OK + b"transfer-encoding: chunked\r\n\r\n-5\r\n{}", _NO_HTTP, 200),
    "no last chunk": (_OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", _NO_HTTP, 200),
    "another framing": (_OK + b"transfer-encoding: gzip\r\n\r\n{}", _NO_HTTP, None),
    "two lengths": (_OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", _NO_HTTP, None),
    "a length below zero": (_OK + b"content-length: -2\r\n\r\n{}", _NO_HTTP, None),
    "a header without a name": (_OK + b": x\r\n\r\n{}", _NO_HTTP, None),
    "a header with NUL": (_OK + b"x: a\0b\r\n\r\n{}", _NO_HTTP, None),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", _NO_HTTP, None),
    "a compressed body": (
        _OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        "encoded although that was declined",
        200,
    ),
    "a compressed refusal": (
        b"HTTP/1.1 400 No\r\ncontent-encoding: identity, br\r\ncontent-length: 2\r\n\r\n{}",
        "encoded although that was declined",
        400,
    ),
}


@pytest.mark.parametrize(("said", "fault", "status"), _NO_ANSWER.values(), ids=_NO_ANSWER)
async def test_what_is_no_answer_is_unknown(said: bytes, fault: str, status: int | None) -> None:
    unknown = Unknown(f"no answer from the ledger: {fault}", status)
    assert await sent_to(saying(said)) == unknown


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


_GZIPPED = gzip.compress(b" " * 10**8)
_CHUNKED = _OK + b"transfer-encoding: chunked\r\n\r\n"
_ENDLESS: dict[str, tuple[bytes, bytes, str, int | None]] = {
    "a long body": (_OK + b"content-length: 99999999999\r\n\r\n", b" " * 9999, "too large", 200),
    "a body without a length": (_OK + b"\r\n", b" " * 9999, "too large", 200),
    "chunks": (_CHUNKED, b"a\r\n" + b" " * 10 + b"\r\n", "too large", 200),
    "a chunk's extension": (_CHUNKED + b"1;", b"x" * 9999, _NO_HTTP, 200),
    "trailers": (_CHUNKED + b"0\r\n", b"x: y\r\n" * 999, _NO_HTTP, 200),
    "headers": (_OK, b"x: y\r\n" * 999, _NO_HTTP, None),
    "one header": (_OK + b"x: ", b"y" * 9999, _NO_HTTP, None),
    "a status line": (b"HTTP/1.1 200 ", b"O" * 9999, _NO_HTTP, None),
    "interim answers": (b"", b"HTTP/1.1 102 Processing\r\n\r\n", "too large", None),
    "a compressed body": (
        _OK + b"content-encoding: gzip\r\n\r\n",
        _GZIPPED,
        "encoded although that was declined",
        200,
    ),
}


@pytest.mark.parametrize(("head", "piece", "fault", "status"), _ENDLESS.values(), ids=_ENDLESS)
async def test_an_answer_beyond_all_measure_is_not_read_to_its_end(
    head: bytes, piece: bytes, fault: str, status: int | None
) -> None:
    unknown = Unknown(f"no answer from the ledger: {fault}", status)
    assert await sent_to(pouring(head, piece)) == unknown


async def test_an_answer_may_be_as_large_as_is_documented() -> None:
    body = json.dumps({**OURS, "note": "x" * (255 * 1024)}).encode()
    assert len(body) < 256 * 1024
    assert await sent_to(answering(201, body)) == Accepted(201, "set_1")
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    assert await sent_to(saying(_CHUNKED + chunked + b"0\r\n\r\n")) == Accepted(200, "set_1")


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
        assert await ledger.ingest([SENT]) == [
            Unknown("no answer from the ledger: no connection: ConnectionRefusedError", sent=False)
        ]


async def test_a_ledger_that_answers_too_slowly_is_unknown() -> None:
    assert await sent_to(hang, timeout_s=0.2) == Unknown(
        "no answer from the ledger: not in time", timed_out=True
    )


async def test_a_caller_that_gives_up_hangs_up_and_can_call_again() -> None:
    async with (
        faulty(None, [hang]) as server,
        ledger_at(server.base_url, connections_max=1) as ledger,
    ):
        with trio.move_on_after(0.2) as scope:
            await ledger.ingest([SENT])
        assert scope.cancelled_caught
        with trio.fail_after(5):
            await server.hung_up.wait()
        server.react(answering(201, json.dumps(OURS).encode()))
        with trio.fail_after(5):
            assert await ledger.ingest([SENT]) == [Accepted(201, "set_1")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_refused_and_the_key_is_sent_nowhere_else(status: int) -> None:
    async with faulty(None, [answering(201, json.dumps(OURS).encode())]) as thief:
        react = answering(status, b"", f"location: {thief.base_url}/v1")
        outcome = await sent_to(react)
    assert outcome == Refused(status, f"the ledger answered {status} without a code")
    assert thief.heads == []


async def test_the_environments_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with faulty(None, [answering(200, b"{}")]) as proxy:
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
        open_house(database_url, remote(base_url)) as near,
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
    nowhere = f"http://127.0.0.1:{await free_port()}"
    async with open_house(database_url, remote(nowhere)) as house:
        answer = await house.deliver(payin("evt_1", ALICE))
        assert answer.status_code == 502
        assert answer.json()["code"] == "LEDGER_INGEST_FAILED"
        assert list(answer.json()["details"]) == ["event_id", "retry_scheduled", "next_retry_at"]
        row = await house.row("evt_1")
        assert (row["state"], row["ledger_status"]) == ("failed", None)
        assert (await house.retry(force=True))["failed"] == 1
