"""An embedded PostgreSQL: a private server that lives as long as the code that opened it.

For ``clawsettle dev`` and the tests; production brings its own server. A state directory holds
``data`` (the database), ``postgres.log`` and ``lock``. The lock is an ``flock`` held for the whole
life, so one state directory has one owner, and the kernel lets go of it when that owner dies.
The server is a child process, reachable through a Unix socket in a directory of mode 0700 only.

Nothing has to be mended by hand after ``kill -9`` of the daemon, of the server or of both: the
kernel tells the server to stop when its daemon dies (Linux with util-linux), the next start ends
an orphan that still runs, and PostgreSQL replays its log. Every wait is bounded. Source: new.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import attrs
import structlog
import trio

from clawsettle.domain.errors import ConfigError, StorageUnavailable
from clawsettle.storage import postmaster
from clawsettle.storage.postgres_programs import (
    ServerAccount,
    choose_account,
    find_binaries,
    output_of,
    succeeds,
)

STOP_S = 10.0
WATCH_S = 0.05
RESTARTS_MAX, RESTARTS_WINDOW_S = 5, 30.0
RESTART_PAUSE_S = 0.1  # before the second restart within the window; it doubles
SOCKET_PATH_BYTES_MAX = 103  # Linux takes 107 bytes, macOS 103
SOCKET_NAME = ".s.PGSQL.5432"

# The kernel sends SIGINT (a clean, fast shutdown) when the thread that started the server ends.
# This must stand right before `postgres`, because a change of uid clears the signal: tried out,
# `setpriv --pdeathsig` before `setpriv --reuid` loses it; before or after `unshare` it holds.
_DEATH_SIGNAL = ("setpriv", "--pdeathsig", "INT", "--")

_log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class EmbeddedServer:
    """A server on a directory; its addresses are valid until the context that yielded it ends.

    ``process`` is the postmaster at present. It does not come back by itself: ``start`` it again,
    or let ``keep_running`` do that.
    """

    data_dir: Path
    socket_dir: Path
    log_path: Path
    _command: Sequence[str]
    _stop_s: float
    process: subprocess.Popen[bytes] = attrs.field(init=False)

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self.process.pid

    @property
    def dsn(self) -> str:
        """The address of the ``postgres`` database, as its superuser."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return the address of a database on this server; it need not exist yet."""
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port=5432"

    async def start(self) -> None:
        """Start the server, for the first time or after it died; ready when this returns.

        The addresses stay what they were.

        Raises: StorageUnavailable when it ended or was not ready in time.
        """
        self.process = await postmaster.start(
            self._command, self.data_dir, self.log_path, self._stop_s
        )

    async def stop(self) -> None:
        """End the server, cleanly if it lets us; takes at most ``stop_s`` + 12 seconds."""
        await postmaster.stop(self.process, self._stop_s)

    async def keep_running(self) -> None:
        """Start the server again whenever it died, at once, then with a doubling pause.

        Raises: StorageUnavailable when it ended more than ``RESTARTS_MAX`` times within
            ``RESTARTS_WINDOW_S`` seconds.
        """
        ended_at: deque[float] = deque()
        while True:
            while self.process.poll() is None:  # noqa: ASYNC110 - a child's end sets no event
                await trio.sleep(WATCH_S)
            begun = trio.current_time()
            ended_at.append(begun)
            while ended_at[0] < begun - RESTARTS_WINDOW_S:
                ended_at.popleft()
            if len(ended_at) > RESTARTS_MAX:
                raise StorageUnavailable(
                    f"the embedded PostgreSQL ended {len(ended_at)} times within"
                    f" {RESTARTS_WINDOW_S:g} s; see {self.log_path}"
                )
            if len(ended_at) > 1:
                await trio.sleep(RESTART_PAUSE_S * 2 ** (len(ended_at) - 2))
            try:
                await self.start()
            except StorageUnavailable as error:
                _log.warning("embedded_postgres_not_restarted", error=error.message)
            else:
                took_s = round(trio.current_time() - begun, 3)
                _log.warning("embedded_postgres_restarted", pid=self.pid, took_s=took_s)


@asynccontextmanager
async def embedded_postgres(
    state_dir: Path,
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    stop_s: float = STOP_S,
) -> AsyncIterator[EmbeddedServer]:
    """Run a PostgreSQL on ``state_dir`` while the context is open; ready when it yields.

    The database is created at first use and kept. ``settings`` are server parameters. At exit,
    also when cancelled, the server is stopped cleanly within ``stop_s`` seconds, then harder; that
    takes at most ``stop_s`` + 12 seconds. Every committed row survives either.

    Raises:
        ConfigError: the directory is in use or unusable, its database is of another major version
            (nothing is touched then), no server is installed, or root has no way to run one.
        StorageUnavailable: the server ended or was not ready in time; quotes its last log lines.

    """
    state_dir = Path.cwd() / state_dir
    data_dir, log_path = state_dir / "data", state_dir / "postgres.log"
    binaries = find_binaries()
    with _locked(state_dir) as is_new:
        account = await choose_account(binaries, state_dir, is_new=is_new)
        await _prepare_data(binaries, state_dir, account)
        with _socket_folder(data_dir, account) as socket_dir:
            death_signal = _DEATH_SIGNAL if await succeeds(*_DEATH_SIGNAL, "true") else ()
            command = [*account.command, *death_signal, str(binaries / "postgres")]
            # Later options win: the caller's settings cannot open the server to the network.
            command += [f"--{name}={value}" for name, value in settings.items()]
            command += ["-D", str(data_dir), "-k", str(socket_dir), "-p", "5432", "-h", ""]
            server = EmbeddedServer(data_dir, socket_dir, log_path, command, stop_s)
            await server.start()
            try:
                yield server
            finally:
                await server.stop()


@contextmanager
def _locked(state_dir: Path) -> Iterator[bool]:
    """Hold the state directory's lock and tell whether the directory is new; never waits.

    Raises ConfigError when another process holds the lock or the directory cannot be used.
    """
    try:
        is_new = not state_dir.exists()
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state_dir / "lock").open("a+b", buffering=0)
    except OSError as error:
        raise _unusable(state_dir, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
            _tidy(state_dir)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(20).decode(errors="replace") or "unknown"
            raise ConfigError(
                [f"state directory {state_dir} is in use by another process (pid {holder})"]
            ) from None
        except OSError as error:
            raise _unusable(state_dir, error) from error
        yield is_new


def _tidy(state_dir: Path) -> None:
    """Remove what a crashed initdb left, and keep the log private and of bounded size."""
    for leftover in state_dir.glob("initdb-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    log = state_dir / "postgres.log"
    if log.exists() and log.stat().st_size > postmaster.LOG_BYTES_MAX:
        log.replace(state_dir / "postgres.log.1")
    log.touch(mode=0o600)


def _unusable(state_dir: Path, error: OSError) -> ConfigError:
    """Name the directory and the system's reason."""
    return ConfigError([f"cannot use {state_dir} for the embedded PostgreSQL: {error}"])


async def _prepare_data(binaries: Path, state_dir: Path, account: ServerAccount) -> None:
    """Make sure that ``data`` is a complete database of the programs' major version.

    It is made under another name and renamed when complete and on disk, so what a crash leaves
    behind is never taken for a database.

    Raises ConfigError for another version, no database, or a failed initdb, whose error it quotes.
    """
    data_dir = state_dir / "data"
    if data_dir.exists():
        await _check_version(binaries, data_dir)
        return
    initdb = [*account.command, str(binaries / "initdb"), "-U", "postgres", "--auth=trust"]
    try:
        with tempfile.TemporaryDirectory(
            prefix="initdb-", dir=state_dir, ignore_cleanup_errors=True
        ) as fresh:
            account.give(Path(fresh))
            await output_of(*initdb, "-E", "UTF8", "--locale=C", "-D", fresh)
            _publish(Path(fresh), data_dir)
    except OSError as error:
        raise _unusable(state_dir, error) from error


def _publish(fresh: Path, data_dir: Path) -> None:
    """Give a finished database its name; on disk when this returns, as initdb's files are."""
    fresh.rename(data_dir)
    folder = os.open(data_dir.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def _check_version(binaries: Path, data_dir: Path) -> None:
    """Refuse a directory that these programs cannot open; reads only."""
    printed = await output_of(str(binaries / "postgres"), "--version")
    program = re.search(r"\d+", printed)
    try:
        data = (data_dir / "PG_VERSION").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{data_dir} is not a PostgreSQL database: {error}"]) from error
    if program is None or data != program[0]:
        problem = (
            f"{data_dir} was made by PostgreSQL {data}, but {binaries} holds {printed.strip()}:"
            f" install version {data}, or move the data with pg_dump or pg_upgrade"
        )
        raise ConfigError([problem])


@contextmanager
def _socket_folder(data_dir: Path, account: ServerAccount) -> Iterator[Path]:
    """Yield the socket's private directory: the data's, or a temporary one where that cannot be.

    PostgreSQL and its clients limit a socket's path and give commas and quotes a meaning in it.
    """
    is_plain = re.fullmatch(r"[\w./+-]+", str(data_dir), re.ASCII) is not None
    if is_plain and len(str(data_dir / SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
        yield data_dir
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="clawsettle-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _unusable(data_dir.parent, error) from error
    with temporary as folder:
        account.give(Path(folder))
        yield Path(folder)
