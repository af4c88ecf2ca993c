"""The one door to PostgreSQL: asyncpg in a thread of its own, called from trio.

asyncpg needs asyncio, the daemon runs on trio. So one thread runs an asyncio loop with the
connection pool, and a call crosses over once: the whole of a transaction runs on that side and
its value comes back. Wake-ups are batched both ways, which is what keeps the crossing cheap.

What a caller can rely on:

- A cancelled call ends the statement on the server, and returns within ``GRACE_S`` even when the
  server does not answer. A value that arrived wins over the cancellation.
- A connection whose call was cancelled, timed out or broke is closed, never handed out again.
- ``fetch`` and ``transaction`` run their work again, a few times, when the connection failed under
  it. The first try may have been committed all the same, so every statement of this package is
  written to be repeatable: inserts name their conflict, updates name their lease.
- No session state: no SET, no session lock, no LISTEN on pooled connections.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import asyncpg
import outcome
import structlog
import tenacity
import trio
import uvloop
from asyncpg import exceptions as pg

from clawsettle.domain.errors import StorageError, StorageUnavailable

T = TypeVar("T")
Row = Mapping[str, Any]

GRACE_S = 1.0
"""How long a cancelled call may still wait for the server, in seconds."""

_ATTEMPTS = 3
_REFUSED = "INTERNAL_ERROR"
_OF_THE_MOMENT = (
    pg.PostgresConnectionError,
    pg.OperatorInterventionError,
    pg.InsufficientResourcesError,
    pg.TransactionRollbackError,
    pg.LockNotAvailableError,
    pg.InterfaceError,
    pg.InternalClientError,
    OSError,
    TimeoutError,
)

_log = structlog.get_logger(__name__)


class Transaction:
    """A connection inside an open transaction; lives on the asyncio side, for one call."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """Run one statement and return its rows."""
        rows: Sequence[Row] = await self._connection.fetch(sql, *args)
        return rows

    async def script(self, sql: str, *, timeout_s: float | None = None) -> None:
        """Run a text of many statements, without parameters.

        All of them together have ``timeout_s``, and without it as long as one statement.
        """
        await self._connection.execute(sql, timeout=timeout_s)

    async def stream(
        self, sql: str, *args: object, page: int, visit: Callable[[Sequence[Row]], None]
    ) -> None:
        """Run one statement and show ``visit`` its rows in order, ``page`` of them at a time.

        Memory is bounded by two pages: while one is shown, in a thread of its own, the next is
        fetched. Raises: what ``visit`` raises, but for an OSError, which would be taken for the
        connection's.
        """
        cursor = await self._connection.cursor(sql, *args)
        rows: Sequence[Row] = await cursor.fetch(page)
        while rows:
            # Both are waited for, whatever happens: the connection must be free for what follows.
            results: Sequence[Any] = await asyncio.gather(
                asyncio.to_thread(visit, rows), cursor.fetch(page), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            rows = results[1]

    async def compute(self, work: Callable[[], T]) -> T:
        """Return what pure ``work`` comes to, in a thread of its own: other calls go on."""
        return await asyncio.to_thread(work)


class Database:
    """A pool of connections to one PostgreSQL database.

    Raises (every method): StorageUnavailable for faults of the moment and unknown outcomes,
    StorageError otherwise, with ``details.constraint`` when a constraint was violated.
    """

    def __init__(self, thread: "_LoopThread", pool: Any) -> None:
        self._thread = thread
        self._pool = pool

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """Run one repeatable statement, committed on its own, and return its rows."""

        async def work(connection: Any) -> Sequence[Row]:
            rows: Sequence[Row] = await connection.fetch(sql, *args)
            return rows

        return await self._run(work)

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run repeatable ``work`` in one transaction and return its value after the commit.

        ``work`` runs in the database thread: it must not touch trio, and anything it raises rolls
        the transaction back.
        """

        async def whole(connection: Any) -> T:
            async with connection.transaction():
                return await work(Transaction(connection))

        return await self._run(whole)

    def statistics(self) -> dict[str, int]:
        """Return how many connections are open and how many of them are idle."""
        return {"open": self._pool.get_size(), "idle": self._pool.get_idle_size()}

    async def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            # Nearly every call ends here; setting up a retry costs more than a small statement.
            return await self._once(work)
        except StorageUnavailable as error:
            if not _broke_off(error):
                raise
        async for attempt in tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(_ATTEMPTS - 1),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=0.5),
            retry=tenacity.retry_if_exception(_broke_off),
            sleep=trio.sleep,
            reraise=True,
        ):
            with attempt:
                return await self._once(work)
        raise AssertionError("tenacity re-raises the last error")

    async def _once(self, work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return await self._thread(self._borrow, work)
        except pg.DataError as error:
            raise StorageError("the database refused a value", code=_REFUSED) from error
        except _OF_THE_MOMENT as error:
            raise StorageUnavailable(f"the database did not answer: {_said(error)}") from error
        except pg.PostgresError as error:
            raise StorageError(
                f"the database refused: {_said(error)}",
                code=_REFUSED,
                details={"constraint": getattr(error, "constraint_name", None)},
            ) from error

    async def _borrow(self, work: Callable[[Any], Awaitable[T]]) -> T:
        connection = await self._pool.acquire()
        try:
            return await work(connection)
        except pg.PostgresError:
            raise  # the server answered, so the connection's state is known
        except BaseException:
            await _discard(connection)
            raise
        finally:
            await self._pool.release(connection)


@asynccontextmanager
async def open_database(
    dsn: str, *, pool_max: int = 8, statement_timeout_s: float = 10.0, name: str = "clawsettle"
) -> AsyncIterator[Database]:
    """Open a pool on ``dsn`` and close it at the end, bounded in time.

    Statements are ended by the server after ``statement_timeout_s``, and given up by the client a
    little later if the server does not answer at all.

    Raises: StorageUnavailable when no connection can be made, StorageError when it is refused.
    """

    async def create() -> Any:
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=pool_max,
            reset=_no_reset,
            timeout=statement_timeout_s,
            command_timeout=statement_timeout_s + 2,
            server_settings={
                "application_name": name,
                "statement_timeout": str(int(statement_timeout_s * 1000)),
                "idle_in_transaction_session_timeout": str(int(statement_timeout_s * 1000)),
                "timezone": "UTC",
                # Every statement here finds its rows by an index. Planned once for all values, and
                # never as a scan because the table happened to be small when it was looked at, it
                # costs the same on the first day and after a million rows.
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",
            },
        )

    async with _open_loop_thread() as thread:
        try:
            pool = await thread(create)
        except (*_OF_THE_MOMENT, pg.PostgresError, ValueError) as error:
            raise StorageUnavailable(f"cannot connect to the database: {_said(error)}") from error
        try:
            yield Database(thread, pool)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(2 * GRACE_S) as bound:
                await thread(pool.close)
            if bound.cancelled_caught:
                await thread(_terminate, pool, shield=True)
                _log.warning("database_pool_terminated")


def _said(error: BaseException) -> str:
    """Return an error's first line: PostgreSQL's details may quote the row."""
    return str(error).partition("\n")[0] or type(error).__name__


def _broke_off(error: BaseException) -> bool:
    """Return whether the connection failed; what took too long once is not tried again here."""
    slow = isinstance(error.__cause__, TimeoutError | pg.QueryCanceledError)
    return isinstance(error, StorageUnavailable) and not slow


async def _no_reset(_connection: object) -> None:
    """Replace the pool's reset query, a round trip that only session state would need."""


async def _discard(connection: Any) -> None:
    """Close a connection whose call did not end, after telling the server to end its statement."""
    try:
        # Closing waits for the server to have taken the cancellation, within the grace.
        await connection.close(timeout=GRACE_S)
    except Exception:  # noqa: BLE001 - closed either way
        connection.terminate()


async def _terminate(pool: Any) -> None:
    pool.terminate()


class _Job(Generic[T]):
    """One call on its way across and back."""

    __slots__ = ("_cancelled", "_function", "_over", "_task", "_thread", "result", "waiter")

    def __init__(
        self,
        thread: "_LoopThread",
        function: Callable[[], Awaitable[T]],
        waiter: trio.lowlevel.Task,
    ) -> None:
        self._thread = thread
        self._function = function
        self._task: asyncio.Task[T] | None = None
        self._cancelled = self._over = False
        self.waiter = waiter
        self.result: outcome.Value[T] | outcome.Error | None = None

    async def _call(self) -> T:
        return await self._function()

    def start(self) -> None:
        self._task = self._thread.loop.create_task(self._call())
        if self._cancelled:
            self._task.cancel()
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()
        self._thread.loop.call_later(GRACE_S, self._finish, outcome.Error(asyncio.CancelledError()))

    def _done(self, task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self._finish(outcome.Error(asyncio.CancelledError()))
        elif (error := task.exception()) is not None:
            self._finish(outcome.Error(error))
        else:
            self._finish(outcome.Value(task.result()))

    def _finish(self, result: "outcome.Value[T] | outcome.Error") -> None:
        if not self._over:  # the waiter may have left after its grace
            self._over = True
            self.result = result
            self._thread.deliver(self)


class _LoopThread:
    """An asyncio loop in a thread, and the two queues that connect it with trio."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        self._in: deque[_Job[Any]] = deque()
        self._out: deque[_Job[Any]] = deque()
        self._in_rung = self._out_rung = False

    async def __call__(
        self, function: Callable[..., Awaitable[T]], /, *args: object, shield: bool = False
    ) -> T:
        """Run ``function(*args)`` on the loop and return its value here; see the module."""
        if not shield:
            await trio.lowlevel.checkpoint_if_cancelled()
        job: _Job[T] = _Job(self, lambda: function(*args), trio.lowlevel.current_task())
        raise_cancel: trio.lowlevel.RaiseCancelT | None = None
        self._in.append(job)
        if not self._in_rung:
            self._in_rung = True
            self.loop.call_soon_threadsafe(self._drain_in)

        def abort(raiser: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raiser
            self.loop.call_soon_threadsafe(job.cancel)
            return trio.lowlevel.Abort.FAILED

        with trio.CancelScope(shield=shield):
            await trio.lowlevel.wait_task_rescheduled(abort)
        result = job.result
        assert result is not None  # noqa: S101 - only deliver() reschedules us
        ended = isinstance(result, outcome.Error) and isinstance(
            result.error, asyncio.CancelledError
        )
        if ended and raise_cancel is not None:
            raise_cancel()
        if ended:
            raise StorageUnavailable("the database thread ended the call")
        return result.unwrap()

    def deliver(self, job: _Job[Any]) -> None:
        """Hand a finished job back to trio; called on the loop."""
        self._out.append(job)
        if not self._out_rung:
            self._out_rung = True
            self._trio.run_sync_soon(self._drain_out)

    def run(self, started: Callable[[], None]) -> None:
        """Run the loop until it is stopped; called in the thread."""
        self.loop = loop = uvloop.new_event_loop()
        try:
            asyncio.set_event_loop(loop)
            loop.call_soon(self._trio.run_sync_soon, started)
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=2 * GRACE_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _drain_in(self) -> None:
        self._in_rung = False
        while self._in:
            self._in.popleft().start()

    def _drain_out(self) -> None:
        self._out_rung = False
        while self._out:
            trio.lowlevel.reschedule(self._out.popleft().waiter)


@asynccontextmanager
async def _open_loop_thread() -> AsyncIterator[_LoopThread]:
    thread, started, ended = _LoopThread(), trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()
    trio.lowlevel.start_thread_soon(
        lambda: thread.run(started.set), lambda _outcome: token.run_sync_soon(ended.set)
    )
    with trio.CancelScope(shield=True):
        await started.wait()
    try:
        yield thread
    finally:
        thread.loop.call_soon_threadsafe(thread.loop.stop)
        with trio.CancelScope(shield=True):
            await ended.wait()
