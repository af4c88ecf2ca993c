"""An embedded PostgreSQL: a private server that lives exactly as long as the code that opened it.

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
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import attrs
import trio

from clawsettle.domain.errors import ConfigError, StorageUnavailable
from clawsettle.storage.postgres_programs import (
    ServerAccount,
    choose_account,
    find_binaries,
    output_of,
    server_environment,
    succeeds,
)

POLL_S = 0.005
START_S = 60.0  # recovery of a large database is the slow case
LEFTOVER_S = 10.0  # backends of a killed postmaster notice its death when their query ends
LEFTOVER = "pre-existing shared memory block"  # what PostgreSQL says while they live
STOP_S = 10.0
QUIT_S = 7.0  # the postmaster itself kills backends that ignore SIGQUIT, after 5 seconds
KILL_S = 5.0
LOG_BYTES_MAX = 10_000_000
SOCKET_PATH_BYTES_MAX = 103  # Linux takes 107 bytes, macOS 103
SOCKET_NAME = ".s.PGSQL.5432"

# The kernel sends SIGINT (a clean, fast shutdown) when the thread that started the server ends.
# This must stand right before `postgres`, because a change of uid clears the signal: tried out,
# `setpriv --pdeathsig` before `setpriv --reuid` loses it; before or after `unshare` it holds.
_DEATH_SIGNAL = ("setpriv", "--pdeathsig", "INT", "--")


@attrs.frozen(eq=False)
class EmbeddedServer:
    """A running server; all of it is valid until the context that yielded it ends.

    ``process.poll()`` tells whether the server died on its own; nothing restarts it.
    """

    data_dir: Path
    socket_dir: Path
    log_path: Path
    process: subprocess.Popen[bytes]

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


@asynccontextmanager
async def embedded_postgres(
    state_dir: Path,
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    stop_s: float = STOP_S,
) -> AsyncIterator[EmbeddedServer]:
    """Run a PostgreSQL on ``state_dir`` while the context is open; ready when it yields.

    The database is created at first use and kept. ``settings`` are server parameters for this
    start. At exit, also when cancelled, the server is stopped cleanly within ``stop_s`` seconds,
    then harder; that takes at most ``stop_s`` + 12 seconds. Every committed row survives either.

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
        environ = server_environment()
        stale_pid = await _end_orphan(data_dir, stop_s)
        if stale_pid is not None:
            # The pid in postmaster.pid may be somebody else's by now, and PostgreSQL would refuse
            # to start beside it. This is how pg_ctl names a pid that is no postmaster; deleting
            # the file instead would drop PostgreSQL's own check for surviving backends.
            environ["PG_GRANDPARENT_PID"] = str(stale_pid)
        with _socket_folder(data_dir, account) as socket_dir:
            death_signal = _DEATH_SIGNAL if await succeeds(*_DEATH_SIGNAL, "true") else ()
            command = [*account.command, *death_signal, str(binaries / "postgres")]
            # Later options win: the caller's settings cannot open the server to the network.
            command += [f"--{name}={value}" for name, value in settings.items()]
            command += ["-D", str(data_dir), "-k", str(socket_dir), "-p", "5432", "-h", ""]
            process = await _start(command, environ, data_dir, log_path, stop_s)
            try:
                yield EmbeddedServer(data_dir, socket_dir, log_path, process)
            finally:
                await _stop(process, stop_s)


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
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
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


async def _end_orphan(data_dir: Path, stop_s: float) -> int | None:
    """Stop a server that outlived its daemon; return a recorded pid that is no server (any more).

    Raises StorageUnavailable when it cannot be ended.
    """
    try:
        pid = abs(int(_pid_file(data_dir)[0]))
    except (IndexError, ValueError):
        return None
    is_ours = _is_postmaster(pid, data_dir)
    if is_ours and not await _end(
        lambda: _is_postmaster(pid, data_dir), lambda signum: os.kill(pid, signum), stop_s
    ):
        raise StorageUnavailable(f"an older PostgreSQL (pid {pid}) on {data_dir} does not end")
    return pid


def _is_postmaster(pid: int, data_dir: Path) -> bool:
    """Tell whether a process is a PostgreSQL on this very directory, no stranger and no zombie."""
    try:
        if Path("/proc/self/cmdline").exists():
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            is_postgres = os.path.basename(program) == b"postgres"  # noqa: PTH119 - bytes
            return is_postgres and Path(f"/proc/{pid}/cwd").samefile(data_dir)
        shown = subprocess.run(  # noqa: S603 - a fixed program and a number
            ["ps", "-p", str(pid), "-o", "command="],  # noqa: S607 - where it is depends
            capture_output=True,
            check=False,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return b"postgres" in shown and os.fsencode(data_dir) in shown


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


async def _start(
    command: Sequence[str], environ: Mapping[str, str], data_dir: Path, log: Path, stop_s: float
) -> subprocess.Popen[bytes]:
    """Start the server and return when it takes connections; what fails to start is stopped.

    Raises StorageUnavailable when it fails; where backends of a killed server still live, it
    tries again for ``LEFTOVER_S``.
    """
    give_up_at = trio.current_time() + LEFTOVER_S
    while True:
        process, log_start = _spawn(command, environ, log)
        try:
            await _until_ready(process, data_dir, log, log_start)
        except BaseException as error:
            await _stop(process, stop_s)
            is_leftover = isinstance(error, StorageUnavailable) and LEFTOVER in str(error)
            if not is_leftover or trio.current_time() > give_up_at:
                raise
        else:
            return process
        await trio.sleep(0.1)


def _spawn(
    command: Sequence[str], environ: Mapping[str, str], log: Path
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server's process from this very thread; return it and where its log begins.

    Not trio's way, which starts children from a worker thread: the death signal fires when the
    starting thread ends. A session of its own keeps Ctrl-C at a terminal from stopping the
    database before the daemon has drained. Raises StorageUnavailable when the system refuses.
    """
    try:
        with log.open("ab") as output:
            log_start = output.tell()
            process = subprocess.Popen(  # noqa: S603 - our own arguments
                command,
                cwd="/",
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise StorageUnavailable(f"cannot start PostgreSQL: {error}") from error
    return process, log_start


async def _until_ready(
    process: subprocess.Popen[bytes], data_dir: Path, log: Path, log_start: int
) -> None:
    """Return once postmaster.pid says that this very process is ready.

    Raises StorageUnavailable when it ended or took more than ``START_S``; quotes the log's end.
    """
    with trio.move_on_after(START_S):
        while process.poll() is None:
            lines = _pid_file(data_dir)
            if lines[7:8] == ["ready"] and lines[0] == str(process.pid):
                return
            await trio.sleep(POLL_S)
    with log.open("rb") as written:
        written.seek(log_start)
        last_lines = written.read(LOG_BYTES_MAX).decode(errors="replace").splitlines()[-6:]
    state = "is not ready" if process.returncode is None else f"ended ({process.returncode})"
    raise StorageUnavailable(
        f"PostgreSQL on {data_dir} {state} at start; {log} ends: {' | '.join(last_lines)}"
    )


def _pid_file(data_dir: Path) -> list[str]:
    """Return the stripped lines of postmaster.pid, none when there is no such file."""
    try:
        text = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]


async def _stop(process: subprocess.Popen[bytes], stop_s: float) -> None:
    """Stop our own server; shielded from cancellation, and bounded by the limits of ``_end``."""
    with trio.CancelScope(shield=True):
        await _end(lambda: process.poll() is None, process.send_signal, stop_s)


async def _end(is_running: Callable[[], bool], send: Callable[[int], None], stop_s: float) -> bool:
    """Signal a server ever harder until it ended; tell whether it did.

    SIGINT rolls back what is open and writes a checkpoint; SIGQUIT leaves the rest to recovery.
    """
    steps = ((signal.SIGINT, stop_s), (signal.SIGQUIT, QUIT_S), (signal.SIGKILL, KILL_S))
    for signum, limit_s in steps:
        with suppress(ProcessLookupError):
            send(signum)
        with trio.move_on_after(limit_s):
            while is_running():  # noqa: ASYNC110 - another process sets no event
                await trio.sleep(POLL_S)
            return True
    return not is_running()
