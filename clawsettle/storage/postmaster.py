"""The server process of the embedded PostgreSQL: started, waited for, and ended for certain.

For ``clawsettle.storage.embedded``, which holds the directory's lock meanwhile. Source: new.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from clawsettle.domain.errors import StorageUnavailable
from clawsettle.storage.postgres_programs import server_environment

POLL_S = 0.005
START_S = 60.0  # recovery of a large database is the slow case
LEFTOVER_S = 10.0  # backends of a killed postmaster notice its death when their query ends
LEFTOVER = "pre-existing shared memory block"  # what PostgreSQL says while they live
QUIT_S = 7.0  # the postmaster itself kills backends that ignore SIGQUIT, after 5 seconds
KILL_S = 5.0
LOG_BYTES_MAX = 10_000_000


async def start(
    command: Sequence[str], data_dir: Path, log_path: Path, stop_s: float
) -> subprocess.Popen[bytes]:
    """Start the server and return when it takes connections; what fails to start is stopped.

    A server that still runs on ``data_dir`` is ended first. Where backends of a killed one still
    live, the start is tried again for ``LEFTOVER_S``.

    Raises:
        StorageUnavailable: the server ended or was not ready in time, and quotes its last log
            lines; or the older one cannot be ended.

    """
    environ = server_environment()
    stale_pid = await _end_orphan(data_dir, stop_s)
    if stale_pid is not None:
        # The pid in postmaster.pid may be somebody else's by now, and PostgreSQL would refuse
        # to start beside it. This is how pg_ctl names a pid that is no postmaster; deleting
        # the file instead would drop PostgreSQL's own check for surviving backends.
        environ["PG_GRANDPARENT_PID"] = str(stale_pid)
    give_up_at = trio.current_time() + LEFTOVER_S
    while True:
        process, log_start = _spawn(command, environ, log_path)
        try:
            await _until_ready(process, data_dir, log_path, log_start)
        except BaseException as error:
            await stop(process, stop_s)
            is_leftover = isinstance(error, StorageUnavailable) and LEFTOVER in str(error)
            if not is_leftover or trio.current_time() > give_up_at:
                raise
        else:
            return process
        await trio.sleep(0.1)


async def stop(process: subprocess.Popen[bytes], stop_s: float) -> None:
    """Stop the server cleanly within ``stop_s`` seconds, then harder; shielded from cancellation.

    Takes at most ``stop_s`` + 12 seconds. Every committed row survives either way.
    """
    with trio.CancelScope(shield=True):
        await _end(lambda: process.poll() is None, process.send_signal, stop_s)


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
