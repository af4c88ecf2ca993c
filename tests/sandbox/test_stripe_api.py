"""The sandbox's Stripe on the wire: credentials, errors, idempotency keys, and what goes wrong."""

import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest
import trio
from attrs import frozen

from clawsettle.sandbox.idempotency import KEY_LIFETIME_S
from clawsettle.sandbox.stripe_quirks import (
    BALANCE_INSUFFICIENT,
    CUT_AFTER_ACTING,
    CUT_BEFORE_ACTING,
    FAULT_AFTER_ACTING,
    FAULT_BEFORE_ACTING,
    RATE_LIMITED,
    SILENT_AFTER_ACTING,
    SILENT_BEFORE_ACTING,
    CallQuirk,
    Effect,
    Ending,
    Fate,
    slow,
)
from clawsettle.sandbox.stripe_sandbox import StripeSandbox, open_sandbox
from tests.sandbox.parties import HEADERS, until


@frozen
class Platform:
    """A caller with one enabled account."""

    sandbox: StripeSandbox
    http: httpx.AsyncClient
    account_id: str

    async def transfer(
        self, key: str | None = None, *, amount: int = 100, form: Mapping[str, str] | None = None
    ) -> httpx.Response:
        whole: Mapping[str, str | int] = {
            "amount": amount,
            "currency": "usd",
            "destination": self.account_id,
            **(form or {}),
        }
        headers = {"idempotency-key": key} if key else {}
        return await self.http.post("/v1/transfers", data=whole, headers=headers)

    async def connect(self) -> trio.SocketStream:
        to = urlsplit(self.sandbox.base_url)
        return await trio.open_tcp_stream(to.hostname or "", to.port or 0)

    @property
    def transfer_count(self) -> int:
        return len(self.sandbox.state.transfers)


@asynccontextmanager
async def open_platform() -> AsyncIterator[Platform]:
    async with (
        open_sandbox(fate=Fate.SILENT) as sandbox,
        httpx.AsyncClient(
            base_url=sandbox.base_url, headers=HEADERS, timeout=10, trust_env=False
        ) as http,
    ):
        account_id: str = (await http.post("/v1/accounts")).json()["id"]
        sandbox.complete_onboarding(account_id)
        yield Platform(sandbox, http, account_id)


def code(answer: httpx.Response) -> str | None:
    error: dict[str, str] = answer.json()["error"]
    return error.get("code")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer pk_test_1", "Basic sk_test_1"])
async def test_a_call_without_a_secret_key_is_refused(header: str) -> None:
    async with open_platform() as platform:
        answer = await platform.http.get("/v1/transfers", headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/charges"),
        ("PUT", "/v1/transfers"),
        ("GET", "/v1/transfers/a/b"),
        ("GET", "//["),
    ],
)
async def test_what_the_sandbox_does_not_have_is_404(method: str, path: str) -> None:
    async with open_platform() as platform:
        answer = await platform.http.request(method, platform.sandbox.base_url + path)
    assert answer.status_code == 404


async def test_an_answer_names_its_request_and_the_version_that_was_asked_for() -> None:
    async with open_platform() as platform:
        headers = {"stripe-version": "2026-01-01.some"}
        answer = await platform.http.get("/v1/transfers", headers=headers)
        call = platform.sandbox.api.calls[-1]
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["stripe-version"] == call.api_version == "2026-01-01.some"


async def test_an_account_that_is_not_ours_is_refused() -> None:
    async with open_platform() as platform:
        answer = await platform.http.get("/v1/payouts", headers={"stripe-account": "acct_1"})
    assert (answer.status_code, code(answer)) == (403, "account_invalid")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"what is this\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
        (
            b"POST /v1/accounts HTTP/1.1\r\nhost: a\r\nauthorization: Bearer sk_test_1\r\n"
            b"content-length: 7\r\n\r\nemail=\xff"
        ),
        b"POST /v1/accounts HTTP/1.1\r\nhost: a\r\ncontent-length: 7\r\n\r\nemail",
    ],
)
async def test_no_request_ends_the_sandbox(request_bytes: bytes) -> None:
    async with open_platform() as platform:
        async with await platform.connect() as stream:
            await stream.send_all(request_bytes)
            await stream.send_eof()
            with trio.fail_after(10):
                while await stream.receive_some():
                    pass
        assert (await platform.transfer()).status_code == 200


async def test_a_connection_that_breaks_does_not_end_the_sandbox() -> None:
    async with open_platform() as platform:
        async with await platform.connect() as stream:
            await stream.send_all(b"POST /v1/accounts HTTP/1.1\r\n")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert (await platform.transfer()).status_code == 200


async def test_an_unknown_parameter_is_refused_in_stripes_words() -> None:
    async with open_platform() as platform:
        answer = await platform.transfer(form={"ammount": "1"})
        transfer_count = platform.transfer_count
    assert answer.status_code == 400
    assert answer.json() == {
        "error": {
            "code": "parameter_unknown",
            "message": "Received unknown parameter: ammount",
            "param": "ammount",
            "type": "invalid_request_error",
        }
    }
    assert transfer_count == 0


async def test_a_repeated_key_is_answered_with_the_first_answer() -> None:
    async with open_platform() as platform:
        first = await platform.transfer("key")
        again = await platform.transfer("key")
        transfer_count = platform.transfer_count
    assert transfer_count == 1
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_key_belongs_to_its_first_parameters() -> None:
    async with open_platform() as platform:
        await platform.transfer("key")
        other = await platform.transfer("key", amount=200)
        transfer_count = platform.transfer_count
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    assert transfer_count == 1


async def test_a_key_belongs_to_the_account_it_was_used_on() -> None:
    async with open_platform() as platform:
        for account in ({}, {"stripe-account": platform.account_id}):
            headers = {"idempotency-key": "key", **account}
            answer = await platform.http.post("/v1/accounts", headers=headers)
            assert "idempotent-replayed" not in answer.headers


async def test_a_key_is_forgotten_after_its_lifetime() -> None:
    async with open_platform() as platform:
        await platform.transfer("key")
        platform.sandbox.clock.advance(KEY_LIFETIME_S - 60)
        await platform.transfer("key")
        assert platform.transfer_count == 1
        platform.sandbox.clock.advance(60)
        late = await platform.transfer("key")
        assert platform.transfer_count == 2
    assert "idempotent-replayed" not in late.headers


async def test_a_key_under_way_is_a_conflict() -> None:
    async with open_platform() as platform, trio.open_nursery() as nursery:
        platform.sandbox.api.script.add("transfers.create", slow(60))
        nursery.start_soon(platform.transfer, "key")
        await until(lambda: platform.sandbox.api.calls[-1].idempotency_key == "key")
        rival = await platform.transfer("key")
        assert platform.transfer_count == 0
        platform.sandbox.clock.advance(60)
        await until(lambda: platform.transfer_count == 1)
    assert (rival.status_code, code(rival)) == (409, "idempotency_key_in_use")


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_has_up_to_255_characters(key: str) -> None:
    async with open_platform() as platform:
        answer = await platform.http.post("/v1/accounts", headers={"idempotency-key": key})
    assert answer.json()["error"]["type"] == "idempotency_error"


@pytest.mark.parametrize(("quirk", "acts"), [(FAULT_BEFORE_ACTING, 0), (FAULT_AFTER_ACTING, 1)])
async def test_a_fault_is_the_answer_for_as_long_as_its_key_lives(
    quirk: CallQuirk, acts: int
) -> None:
    async with open_platform() as platform:
        platform.sandbox.api.script.add("transfers.create", quirk)
        answers = [await platform.transfer("key") for _ in range(2)]
        transfer_count = platform.transfer_count
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert transfer_count == acts


async def test_a_refusal_is_the_answer_for_as_long_as_its_key_lives() -> None:
    async with open_platform() as platform:
        platform.sandbox.api.script.add("transfers.create", BALANCE_INSUFFICIENT)
        answers = [await platform.transfer("key") for _ in range(2)]
    assert [code(answer) for answer in answers] == ["balance_insufficient"] * 2


async def test_a_limit_leaves_the_key_free() -> None:
    async with open_platform() as platform:
        platform.sandbox.api.script.add("transfers.create", RATE_LIMITED)
        answers = [await platform.transfer("key") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [429, 200]
    assert "idempotent-replayed" not in answers[1].headers


@pytest.mark.parametrize(
    ("quirk", "acts"),
    [
        (SILENT_BEFORE_ACTING, 0),
        (SILENT_AFTER_ACTING, 1),
        (CUT_BEFORE_ACTING, 0),
        (CUT_AFTER_ACTING, 1),
    ],
)
async def test_a_call_without_an_answer_has_its_effect_or_has_not(
    quirk: CallQuirk, acts: int
) -> None:
    async with open_platform() as platform:
        platform.sandbox.api.script.add("transfers.create", quirk)
        platform.http.timeout = httpx.Timeout(0.2)
        with pytest.raises((httpx.ReadTimeout, httpx.RemoteProtocolError)) as unanswered:
            await platform.transfer("key")
        assert platform.transfer_count == acts
        again = await platform.transfer("key")
        assert platform.transfer_count == 1
    assert isinstance(unanswered.value, httpx.ReadTimeout) == (quirk.ending is Ending.SILENCE)
    assert ("idempotent-replayed" in again.headers) == (acts == 1)


async def test_a_call_goes_on_when_its_caller_has_hung_up() -> None:
    async with open_platform() as platform:
        platform.sandbox.api.script.add("transfers.create", slow(60))
        platform.http.timeout = httpx.Timeout(0.2)
        with pytest.raises(httpx.ReadTimeout):
            await platform.transfer("key")
        assert platform.transfer_count == 0
        platform.sandbox.clock.advance(60)
        await until(lambda: platform.transfer_count == 1)


async def test_a_quirk_is_for_the_call_it_was_meant_for() -> None:
    async with open_platform() as platform:
        wanted = {"payout_id": "pout_2"}
        platform.sandbox.api.script.add("transfers.create", RATE_LIMITED, metadata=wanted)
        answers = [
            await platform.transfer(form={"metadata[payout_id]": payout_id, "metadata[other]": "x"})
            for payout_id in ("pout_1", "pout_2", "pout_2")
        ]
    assert [answer.status_code for answer in answers] == [200, 429, 200]


@pytest.mark.parametrize("effect", [Effect.NONE, Effect.BEGUN])
def test_a_quirk_without_anything_to_answer_is_refused(effect: Effect) -> None:
    with pytest.raises(ValueError, match="nothing to answer"):
        CallQuirk(effect)


async def test_lists_are_filtered_and_paged_from_the_latest_on() -> None:
    async with open_platform() as platform:
        made: list[str] = []
        for number in range(5):
            group = {"transfer_group": "odd" if number % 2 else "even"}
            made.insert(0, (await platform.transfer(form=group)).json()["id"])
            platform.sandbox.clock.advance(100)

        async def listed(**query: str | int) -> tuple[list[str], bool]:
            page = (await platform.http.get("/v1/transfers", params=query)).json()
            return [each["id"] for each in page["data"]], page["has_more"]

        assert await listed() == (made, False)
        assert await listed(limit=2) == (made[:2], True)
        assert await listed(limit=2, starting_after=made[1]) == (made[2:4], True)
        assert await listed(limit=2, starting_after=made[3]) == (made[4:], False)
        assert await listed(limit=2, ending_before=made[4]) == (made[2:4], True)
        assert await listed(limit=2, ending_before=made[2]) == (made[:2], False)
        assert await listed(transfer_group="odd") == ([made[1], made[3]], False)
        assert await listed(destination="acct_other") == ([], False)
        transfers = platform.sandbox.state.transfers
        second_s, fourth_s = transfers[made[3]]["created"], transfers[made[1]]["created"]
        between = {"created[gt]": second_s, "created[lte]": fourth_s}
        assert await listed(**between) == (made[1:3], False)
        between = {"created[gte]": second_s, "created[lt]": fourth_s}
        assert await listed(**between) == (made[2:4], False)
        assert await listed(created=second_s) == ([made[3]], False)
        for query in ({"limit": "0"}, {"limit": "101"}, {"starting_after": "tr_none"}):
            refused = await platform.http.get("/v1/transfers", params=query)
            assert refused.status_code == 400
