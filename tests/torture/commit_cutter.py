"""A proxy before PostgreSQL that cuts a connection at a commit: before it is passed on, or after.

It reads the client's side of the protocol just far enough to know a commit: the word COMMIT, or
the Sync after a writing statement outside of a transaction.
"""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import trio
from attrs import define, field

from clawsettle.storage.embedded import SOCKET_NAME

_READY_FOR_QUERY = b"Z\x00\x00\x00\x05"
Message = tuple[bytes, bytes]
"""The type of a message, and the whole of it."""


@define(eq=False)
class _Session:
    """What is known of one connection; ``swallow`` is set when the next answer is the last."""

    statements: dict[bytes, bool] = field(factory=dict)
    writes: bool = False
    in_transaction: bool = False
    swallow: bool = False
    _rest: bytes = b""
    _started: bool = False

    def messages(self, chunk: bytes) -> Iterator[Message]:
        """Yield the complete messages so far; the first one of a connection has no type."""
        self._rest += chunk
        while len(self._rest) >= 5:
            head = 1 if self._started else 0
            size = head + int.from_bytes(self._rest[head : head + 4])
            if len(self._rest) < size:
                return
            message, self._rest = self._rest[:size], self._rest[size:]
            yield message[:head], message
            self._started = True

    def is_commit(self, kind: bytes, message: bytes) -> bool:
        """Tell whether the server commits when it gets this message; learns from all others."""
        body = message[5:]
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self.statements[name] = b"INSERT INTO" in sql or b"UPDATE " in sql
        elif kind == b"B":
            _, name, _ = body.split(b"\0", 2)
            self.writes = self.statements[name]
        elif kind == b"Q":
            self.in_transaction = body.startswith(b"BEGIN")
            return body.startswith(b"COMMIT")
        return kind == b"S" and self.writes and not self.in_transaction


@define(eq=False)
class CommitCutter:
    """Listens in ``folder``, whose path must be short, and carries to the server's socket."""

    folder: Path
    server_socket: Path
    _pending: list[tuple[bool, trio.Event]] = field(factory=list, init=False)

    def dsn_of(self, database: str) -> str:
        """Return the address of a database of the server, by way of this proxy."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder))}&port=5432"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry connections until cancelled."""
        path = self.folder / SOCKET_NAME
        path.unlink(missing_ok=True)
        listening = trio.socket.socket(socket.AF_UNIX)
        await listening.bind(str(path))
        listening.listen()
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(
                self._carry, [trio.SocketListener(listening)], handler_nursery=nursery
            )

    async def cut_next_commit(self, *, passes_on: bool) -> None:
        """Cut the connection of the next commit, and return when that is done.

        With ``passes_on`` the server commits and its answer is lost, else it never hears of it.
        """
        done = trio.Event()
        self._pending.append((passes_on, done))
        await done.wait()

    async def _carry(self, client: trio.SocketStream) -> None:
        session = _Session()
        async with (
            client,
            await trio.open_unix_socket(self.server_socket) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._backward, session, server, client, nursery.cancel_scope)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._forward(session, client, server)
            if session.swallow:
                await trio.sleep_forever()  # the answer ends it
            nursery.cancel_scope.cancel()

    async def _forward(
        self, session: _Session, client: trio.SocketStream, server: trio.SocketStream
    ) -> None:
        """Pass on what the client says until it ends, or until its commit is to be cut."""
        async for chunk in client:
            passed = b""
            for kind, message in session.messages(bytes(chunk)):
                if session.is_commit(kind, message) and self._pending:
                    passes_on, done = self._pending.pop(0)
                    session.swallow = passes_on
                    await server.send_all(passed + (message if passes_on else b""))
                    done.set()
                    return
                passed += message
            if passed:
                await server.send_all(passed)

    async def _backward(
        self,
        session: _Session,
        server: trio.SocketStream,
        client: trio.SocketStream,
        scope: trio.CancelScope,
    ) -> None:
        """Pass on what the server says, but for the answer that is to be lost."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for chunk in server:
                if not session.swallow:
                    await client.send_all(chunk)
                elif chunk[-6:-1] == _READY_FOR_QUERY:
                    break
        scope.cancel()
