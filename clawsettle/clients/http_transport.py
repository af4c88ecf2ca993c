"""HTTP/1.1 as a client: one request and its whole answer, to one address.

Theory of operation. A call takes a slot, then the idle connection that was used last, or a new
one; writes the request in one piece; reads until h11 says that the answer is whole; and puts the
connection back when both sides may go on. There is one request at a time on a connection, so a
slow answer holds up nobody else's, and nothing is ever sent twice: whether to repeat is for the
caller to judge. What ends in any other way than a whole answer closes its connection. An answer is
listened for once the request is written, or cannot be: a server that answers without reading a body
larger than the sockets' buffers is heard if it hangs up.

Everything is bounded: connecting by ``connect_timeout_s``; the call as a whole, waiting for a slot
included, by ``timeout_s``; all bytes of an answer, its head, framing and trailers among them, by
``answer_max_bytes``. Encoded (compressed) answers are declined and refused, so that bound holds
for what they would expand to. Redirects are answers like others. There are no cookies, and the
environment's proxies are not used: ``base_url`` is the only address anything is sent to.

Source: new; docs/adr/0013 has the figures.
"""

import select
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import h11
import trio
from attrs import define, field, frozen

from clawsettle.domain.errors import ProviderError

_READ_BYTES = 16 * 1024
_PORTS = {"http": 80, "https": 443}


class NoAnswer(ProviderError):
    """No whole answer came, so it is unknown whether the request had an effect.

    ``status`` is the HTTP status when at least the answer's head came, ``timed_out`` says that time
    ran out, and without ``sent`` there was no connection: then it has had no effect.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        timed_out: bool = False,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.timed_out = timed_out
        self.sent = sent


@frozen
class Answer:
    """A whole answer: its HTTP status, whichever it is, and its body as the server meant it.

    Names of headers are in small letters; equal are answers whose status and body are.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(factory=dict, eq=False, repr=False)


@define(eq=False)
class HttpTransport:
    """Connections to the server of ``base_url``, at most ``connections_max``; see the module.

    A connection that was idle for ``idle_max_s`` is not used again: its server, or something on
    the way to it, is about to forget it. A ``tls`` context replaces the system's trust.
    """

    base_url: str
    connections_max: int
    connect_timeout_s: float
    timeout_s: float
    answer_max_bytes: int
    idle_max_s: float = 20.0
    tls: ssl.SSLContext | None = None
    _host: str = field(init=False)
    _port: int = field(init=False)
    _authority: str = field(init=False)
    _path: str = field(init=False)
    _slots: trio.Semaphore = field(init=False)
    _idle: list["_Connection"] = field(factory=list, init=False)
    _is_closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._authority, self._path = parts.netloc, parts.path
        self._slots = trio.Semaphore(self.connections_max)
        if parts.scheme == "https":
            self.tls = self.tls or ssl.create_default_context()

    async def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Ask for ``path`` below the base URL and return the answer. Raises: as ``post`` does."""
        return await self._call("GET", path, headers, b"")

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send ``body`` to ``path`` below the base URL and return the answer.

        Raises: NoAnswer for everything else that can happen, the end of ``timeout_s`` included.
        """
        framed = {"content-length": str(len(body)), **headers}
        return await self._call("POST", path, framed, body)

    def close(self) -> None:
        """Close the idle connections; those of other calls, under way or later, end with them."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _call(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        exchange = _Exchange(self.answer_max_bytes)
        try:
            request = h11.Request(
                method=method, target=self._path + path, headers=self._headers(headers)
            )
            with trio.fail_after(self.timeout_s):
                async with self._slots:
                    return await self._carry(exchange, request, body)
        except trio.TooSlowError:
            raise NoAnswer("not in time", exchange.status, timed_out=True) from None
        except (h11.ProtocolError, trio.BrokenResourceError) as error:
            raise NoAnswer(_reason(error), exchange.status) from error

    def _headers(self, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        every = {"host": self._authority, "accept-encoding": "identity", **headers}
        return [(name.encode(), value.encode()) for name, value in every.items()]

    async def _carry(self, exchange: "_Exchange", request: h11.Request, body: bytes) -> Answer:
        connection = self._kept() or await self._connect()
        try:
            answer = await exchange.run(connection, request, body)
        except BaseException:
            connection.close()
            raise
        if not self._is_closed and connection.rest():
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _kept(self) -> "_Connection | None":
        since = trio.current_time() - self.idle_max_s
        while self._idle:
            connection = self._idle.pop()
            if connection.rested_at > since and connection.is_quiet():
                return connection
            connection.close()
        return None

    async def _connect(self) -> "_Connection":
        try:
            with trio.fail_after(self.connect_timeout_s):
                stream = await trio.open_tcp_stream(self._host, self._port)
                try:
                    return await _Connection.over(stream, self.tls, self._host)
                except BaseException:
                    stream.socket.close()
                    raise
        except trio.TooSlowError:
            raise NoAnswer("no connection in time", timed_out=True, sent=False) from None
        except (OSError, trio.BrokenResourceError) as error:
            raise NoAnswer(f"no connection: {_reason(error)}", sent=False) from error


@define(eq=False)
class _Connection:
    """A connection, its protocol state, and when it was last in use."""

    stream: trio.abc.Stream
    socket: trio.socket.SocketType
    poll: select.poll
    http: h11.Connection = field(factory=lambda: h11.Connection(h11.CLIENT))
    rested_at: float = 0.0

    @classmethod
    async def over(
        cls, stream: trio.SocketStream, tls: ssl.SSLContext | None, host: str
    ) -> "_Connection":
        """Speak over a connected stream, after the TLS handshake if there is to be one."""
        poll = select.poll()
        poll.register(stream.socket.fileno(), select.POLLIN)
        if tls is None:
            return cls(stream, stream.socket, poll)
        # A server need not say goodbye: the end of an answer is known without it.
        secured = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
        await secured.do_handshake()
        return cls(secured, stream.socket, poll)

    def rest(self) -> bool:
        """Get ready for another request; whether that is possible."""
        if not (self.http.our_state is self.http.their_state is h11.DONE):
            return False
        # More than was asked for would be taken for the next answer.
        if self.http.trailing_data != (b"", False):
            return False
        self.http.start_next_cycle()
        self.rested_at = trio.current_time()
        return True

    def is_quiet(self) -> bool:
        """Whether the server has neither hung up nor said anything since the last answer."""
        return not self.poll.poll(0)

    def close(self) -> None:
        """Hang up at once."""
        self.socket.close()


@define(eq=False)
class _Exchange:
    """One request and what has come back of its answer so far."""

    answer_max_bytes: int
    status: int | None = None
    headers: dict[str, str] = field(factory=dict)
    received_bytes: int = 0
    body: bytearray = field(factory=bytearray)

    async def run(self, connection: _Connection, request: h11.Request, body: bytes) -> Answer:
        """Write the request, read the answer to its end. Raises: NoAnswer, and what h11 raises."""
        http = connection.http
        head = http.send(request) or b""
        data = http.send(h11.Data(body)) or b""
        http.send(h11.EndOfMessage())
        try:
            await connection.stream.send_all(head + data)
        except trio.BrokenResourceError:
            # A server may answer and hang up before it has read what it refuses.
            http.send_failed()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await self._receive(connection))
            elif isinstance(event, h11.Response):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self.status is not None  # noqa: S101 - h11 has seen to the order
                return Answer(self.status, bytes(self.body), self.headers)

    def _begin(self, head: h11.Response) -> None:
        self.status = head.status_code
        self.headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in head.headers}
        codings = {value for name, value in head.headers if name == b"content-encoding"}
        if codings - {b"identity"}:
            raise NoAnswer("encoded although that was declined", self.status)

    async def _receive(self, connection: _Connection) -> bytes:
        data = bytes(await connection.stream.receive_some(_READ_BYTES))
        self.received_bytes += len(data)
        if self.received_bytes > self.answer_max_bytes:
            raise NoAnswer("too large", self.status)
        return data


def _reason(error: Exception) -> str:
    """Name what went wrong, without the texts of libraries: they may quote what was said."""
    cause = error.__cause__ or error
    while isinstance(cause, ExceptionGroup):
        cause = cause.exceptions[0]
    return type(cause).__name__
