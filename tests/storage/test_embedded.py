"""The embedded PostgreSQL on the real thing: what a start keeps, survives, refuses and leaves."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from clawsettle.domain.errors import ConfigError, StorageUnavailable
from clawsettle.storage.embedded import RESTARTS_MAX, EmbeddedServer, embedded_postgres
from clawsettle.storage.postgres_programs import find_binaries

ROOT = Path(__file__).parents[2]
PSQL = find_binaries() / "psql"
pytestmark = pytest.mark.skipif(not PSQL.exists(), reason="these binaries come without psql")

# A daemon of its own: says where its database is, then lives until it is killed.
DAEMON = """
import sys, trio
from pathlib import Path
from clawsettle.storage.embedded import embedded_postgres
async def main():
    async with embedded_postgres(Path(sys.argv[1])) as server:
        print(server.pid, server.dsn, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
# The same as a whole life: first start, a row, second start, the row, with the uid it ran as.
TWO_STARTS = """
import subprocess, sys, trio
from pathlib import Path
from clawsettle.storage.embedded import embedded_postgres
from clawsettle.storage.postgres_programs import find_binaries
async def main():
    for sql in ("create table kept as select 7 as x", "select x from kept"):
        async with embedded_postgres(Path(sys.argv[1])) as server:
            psql = [find_binaries() / "psql", "-XAtc", sql, server.dsn]
            print(subprocess.check_output(psql, text=True, cwd="/").strip())
            print(server.data_dir.stat().st_uid)
trio.run(main)
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user of the machine can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="clawsettle-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def namespace() -> list[str]:
    """What lets the tests' own PostgreSQL run as root."""
    if os.geteuid():
        return []
    command = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
    if not can_run(*command, "true"):
        pytest.skip("root may not use user namespaces here")
    return command


@pytest.fixture
def ordinary_python() -> list[str]:
    """An interpreter that has the packages and runs as another user than root."""
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    probe = "import clawsettle.storage.postgres_programs as p; p.find_binaries()"
    for python in (sys.executable, "/usr/bin/python3"):
        if can_run(*become, python, "-c", probe):
            return [*become, python]
    pytest.skip("no interpreter with the packages is reachable for uid 65534")


async def query(server: EmbeddedServer | str, sql: str) -> str:
    dsn = server if isinstance(server, str) else server.dsn
    done = await trio.run_process([PSQL, "-XAtc", sql, dsn], capture_stdout=True)
    return done.stdout.decode().strip()


async def until(condition: Callable[[], bool], *, within_s: float = 20) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await trio.sleep(0.01)


async def hanging_backend(server: EmbeddedServer) -> int:
    """The pid of the backend in ``pg_sleep``, stopped so that it obeys SIGKILL only."""
    found = ""
    with trio.fail_after(20):
        while not found:
            found = await query(
                server, "select pid from pg_stat_activity where wait_event = 'PgSleep'"
            )
    os.kill(int(found), signal.SIGSTOP)
    return int(found)


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def fill(path: Path, size_bytes: int) -> None:
    path.parent.mkdir()
    path.write_bytes(bytes(size_bytes))


def leftovers(state_dir: Path) -> list[Path]:
    return list(state_dir.glob("initdb-*"))


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def started(command: Sequence[str | Path], cwd: Path) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=cwd, stdin=null, stdout=null, stderr=null)


def can_run(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    quiet = subprocess.run(
        command, env=daemon_environment(), cwd="/", capture_output=True, check=False
    )
    return quiet.returncode == 0


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped yet does not."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return bool(shown.stdout.strip()) and not shown.stdout.startswith(b"Z")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def daemon_environment(**changes: str) -> Mapping[str, str]:
    """Let an interpreter that is not the virtual environment's find the same packages."""
    packages = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(packages), **changes}


async def start_daemon(state_dir: Path) -> tuple[subprocess.Popen[str], int, str]:
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(state_dir)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=daemon_environment(),
    )
    assert daemon.stdout is not None
    with trio.fail_after(30):
        line = await trio.to_thread.run_sync(daemon.stdout.readline)
    pid, dsn = line.split()
    return daemon, int(pid), dsn


def kill_daemon(daemon: subprocess.Popen[str]) -> None:
    daemon.kill()
    daemon.communicate(timeout=10)


async def test_second_start_keeps_a_committed_row_and_takes_less_than_three_seconds(
    state_dir: Path,
) -> None:
    async with embedded_postgres(state_dir) as first:
        await query(first, "create table kept as select 7 as x")
    assert first.process.returncode == 0
    assert mode_of(state_dir) == 0o700
    began = trio.current_time()
    async with embedded_postgres(state_dir) as second:
        assert trio.current_time() - began < 3
        assert await query(second, "select x from kept") == "7"
        assert await query(second, "show listen_addresses") == ""
        assert await query(second, "show server_encoding") == "UTF8"
    assert leftovers(state_dir) == []


async def test_settings_reach_the_server_but_cannot_open_it_to_the_network(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nowhere")
    settings = {"fsync": "off", "max_connections": "17", "listen_addresses": "*"}
    async with embedded_postgres(state_dir, settings=settings) as server:
        assert await query(server, "show fsync") == "off"
        assert await query(server, "show max_connections") == "17"
        assert await query(server, "show listen_addresses") == ""


async def test_relative_state_directory_is_meant_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with embedded_postgres(Path("here/state")) as server:
        assert server.data_dir == tmp_path / "here/state/data"
        assert await query(server, "select 1") == "1"


async def test_server_that_cannot_start_is_an_error_with_its_own_words(state_dir: Path) -> None:
    with pytest.raises(StorageUnavailable, match="max_connections"):
        async with embedded_postgres(state_dir, settings={"max_connections": "many"}):
            pytest.fail("it started")
    async with embedded_postgres(state_dir) as server:
        assert await query(server, "select 1") == "1"


async def test_committed_row_survives_kill_nine_of_the_server(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as first:
        await query(first, "create table kept as select 7 as x")
        kill(first.pid)
        await until(lambda: first.process.poll() is not None)
    began = trio.current_time()
    async with embedded_postgres(state_dir) as second:
        assert trio.current_time() - began < 10
        assert await query(second, "select x from kept") == "7"


async def test_killed_server_is_started_again_at_the_same_address(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.keep_running)
        await query(server, "create table kept as select 7 as x")
        dsn, pid = server.dsn, server.pid
        kill(pid)
        await until(lambda: server.pid != pid)
        assert await query(dsn, "select x from kept") == "7"
        nursery.cancel_scope.cancel()
    assert server.process.returncode == 0


async def test_server_that_dies_again_and_again_is_given_up_with_the_reason(
    state_dir: Path,
) -> None:
    async with embedded_postgres(state_dir) as server:
        killed: list[int] = []

        async def kill_each() -> None:
            while True:
                killed.append(server.pid)
                kill(server.pid)
                await until(lambda: server.pid != killed[-1])

        with pytest.RaisesGroup(pytest.RaisesExc(StorageUnavailable, match=r"6 times within 30 s")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_each)
                nursery.start_soon(server.keep_running)
        assert len(killed) == RESTARTS_MAX + 1


async def test_server_ends_with_its_killed_daemon_and_the_next_daemon_starts_at_once(
    state_dir: Path,
) -> None:
    daemon, pid, dsn = await start_daemon(state_dir)
    await query(dsn, "create table kept as select 7 as x")
    kill_daemon(daemon)
    second, second_pid, dsn = await start_daemon(state_dir)
    assert await query(dsn, "select x from kept") == "7"
    assert not is_alive(pid)
    kill_daemon(second)
    if shutil.which("setpriv"):
        await until(lambda: not is_alive(second_pid))
        await until(lambda: not (state_dir / "data/postmaster.pid").exists())


async def test_daemon_and_server_both_killed_leave_a_database_that_starts(state_dir: Path) -> None:
    daemon, pid, dsn = await start_daemon(state_dir)
    await query(dsn, "create table kept as select 7 as x")
    kill(pid)
    kill_daemon(daemon)
    async with embedded_postgres(state_dir) as server:
        assert await query(server, "select x from kept") == "7"


async def test_orphaned_server_is_ended_before_a_new_one_starts(
    state_dir: Path, namespace: list[str]
) -> None:
    async with embedded_postgres(state_dir) as server:
        await query(server, "create table kept as select 7 as x")
    # Without the death signal, as where there is no setpriv.
    command: list[str | Path] = [*namespace, find_binaries() / "postgres"]
    command += ["-D", server.data_dir, "-k", server.data_dir, "-h", ""]
    orphan = started(command, Path("/"))
    reaper = threading.Thread(target=orphan.wait)
    reaper.start()
    pid_file = server.data_dir / "postmaster.pid"
    await until(lambda: pid_file.exists() and "ready" in pid_file.read_text())
    async with embedded_postgres(state_dir) as second:
        assert orphan.poll() == 0
        assert await query(second, "select x from kept") == "7"
    reaper.join()


async def test_stranger_with_the_pid_of_a_dead_server_is_left_alone(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as server:
        await query(server, "create table kept as select 7 as x")
        pid_file = server.data_dir / "postmaster.pid"
        left_behind = pid_file.read_text()
        kill(server.pid)
        await until(lambda: server.process.poll() is not None)
    stranger = started(["sleep", "60"], server.data_dir)
    try:
        pid_file.write_text(left_behind.replace(str(server.pid), str(stranger.pid), 1))
        async with embedded_postgres(state_dir) as second:
            assert await query(second, "select x from kept") == "7"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_start_waits_for_backends_that_outlive_their_killed_server(state_dir: Path) -> None:
    async with trio.open_nursery() as nursery, embedded_postgres(state_dir) as first:
        nursery.start_soon(query_cut_short, first, "select pg_sleep(60)")
        backend = await hanging_backend(first)
        kill(first.pid)
        await until(lambda: first.process.poll() is not None)
        nursery.cancel_scope.cancel()

    async def wake_the_backend_once_a_start_met_it() -> None:
        await until(lambda: "shared memory block" in first.log_path.read_text())
        os.kill(backend, signal.SIGCONT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake_the_backend_once_a_start_met_it)
        async with embedded_postgres(state_dir) as second:
            assert await query(second, "select 1") == "1"


async def query_cut_short(server: EmbeddedServer, sql: str) -> None:
    with suppress(subprocess.CalledProcessError):
        await trio.run_process([PSQL, "-XAtc", sql, server.dsn], capture_stderr=True)


async def test_state_directory_in_use_is_refused_at_once(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as first:
        began = trio.current_time()
        with pytest.raises(ConfigError, match="in use") as refused:
            async with embedded_postgres(state_dir):
                pytest.fail("two servers on one directory")
        assert trio.current_time() - began < 1
        assert str(state_dir) in str(refused.value)
        assert f"pid {os.getpid()}" in str(refused.value)
        assert await query(first, "select 1") == "1"


async def test_state_directory_of_a_living_daemon_is_refused(state_dir: Path) -> None:
    daemon, _, dsn = await start_daemon(state_dir)
    try:
        with pytest.raises(ConfigError, match=f"pid {daemon.pid}"):
            async with embedded_postgres(state_dir):
                pytest.fail("two daemons on one directory")
        assert await query(dsn, "select 1") == "1"
    finally:
        kill_daemon(daemon)


@pytest.mark.parametrize("name", ["deep/" * 40 + "state", "with, comma and 'quote' %41 é"])
async def test_path_that_no_socket_can_have_works(tmp_path: Path, name: str) -> None:
    async with embedded_postgres(tmp_path / name) as server:
        assert await query(server, "select 1") == "1"
        assert server.socket_dir != server.data_dir
        assert mode_of(server.socket_dir) == 0o700
    assert not server.socket_dir.exists()


async def test_other_major_version_is_refused_and_untouched(state_dir: Path) -> None:
    data_dir = state_dir / "data"
    data_dir.mkdir(parents=True)
    (data_dir / "PG_VERSION").write_text("11\n")
    (data_dir / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(ConfigError, match=r"made by PostgreSQL 11, but .* holds postgres"):
        async with embedded_postgres(state_dir):
            pytest.fail("it opened a foreign database")
    kept = {path.name: path.read_text() for path in sorted(data_dir.glob("**/*"))}
    assert kept == {"PG_VERSION": "11\n", "postmaster.pid": f"{os.getpid()}\n"}


async def test_directory_that_is_no_database_is_refused(state_dir: Path) -> None:
    (state_dir / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not a PostgreSQL database"):
        async with embedded_postgres(state_dir):
            pytest.fail("it opened a folder")


async def test_leftovers_of_a_broken_initdb_are_removed(state_dir: Path) -> None:
    leftover = state_dir / "initdb-x7"
    (leftover / "base").mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(state_dir) as server:
        assert await query(server, "select 1") == "1"
    assert not leftover.exists()


async def test_initdb_cut_short_leaves_no_database(state_dir: Path) -> None:
    with trio.move_on_after(0.1) as cut:
        async with embedded_postgres(state_dir):
            await trio.sleep_forever()
    assert cut.cancelled_caught
    assert not (state_dir / "data").exists()
    async with embedded_postgres(state_dir) as server:
        assert await query(server, "select 1") == "1"
    assert leftovers(state_dir) == []


async def test_full_disk_is_an_error_with_the_tools_own_words(state_dir: Path) -> None:
    script = f"ulimit -f 100; exec '{sys.executable}' -c '{DAEMON}' '{state_dir}'"
    done = await trio.run_process(
        ["sh", "-c", script],
        check=False,
        capture_stdout=True,
        capture_stderr=True,
        cwd=ROOT,
        env=daemon_environment(),
    )
    assert done.returncode == 1
    last_line = done.stderr.decode().splitlines()[-1]
    assert "ConfigError" in last_line
    assert "initdb failed" in last_line
    assert not (state_dir / "data").exists()


async def test_state_directory_that_cannot_be_made_is_an_error_with_the_reason(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        async with embedded_postgres(tmp_path / "file" / "state"):
            pytest.fail("it made a directory in a file")


async def test_cancelled_daemon_stops_its_server_cleanly(state_dir: Path) -> None:
    with trio.CancelScope() as scope:
        async with embedded_postgres(state_dir) as server:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.process.returncode == 0


async def test_stop_is_bounded_when_a_backend_hangs(state_dir: Path) -> None:
    async with trio.open_nursery() as nursery:
        async with embedded_postgres(state_dir, stop_s=0.2) as server:
            nursery.start_soon(query_cut_short, server, "select pg_sleep(60)")
            backend = await hanging_backend(server)
            began = trio.current_time()
        assert trio.current_time() - began < 10
        assert server.process.returncode is not None
        assert not is_alive(backend)


async def test_log_is_private_and_starts_anew_when_it_is_large(state_dir: Path) -> None:
    fill(state_dir / "postgres.log", 10_000_001)
    async with embedded_postgres(state_dir) as server:
        assert server.log_path == state_dir / "postgres.log"
        assert len(server.log_path.read_bytes()) < 10_000_000
        assert mode_of(server.log_path) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="this whole file runs as an ordinary user already")
async def test_another_user_than_root_runs_it(open_dir: Path, ordinary_python: list[str]) -> None:
    environ = daemon_environment()
    home = open_dir / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    assert await printed([*ordinary_python, "-c", TWO_STARTS, str(home / "state")], environ) == [
        "SELECT 1", "65534", "7", "65534",
    ]  # fmt: skip
    # What an ordinary user made, root can use too, and it stays that user's.
    assert await printed(
        [sys.executable, "-c", TWO_STARTS.replace("create table kept as", ""), str(home / "state")],
        environ,
    ) == ["7", "65534", "7", "65534"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
async def test_root_without_user_namespaces_runs_it_as_another_user(open_dir: Path) -> None:
    write_program(open_dir / "unshare", "exit 1")
    environ = daemon_environment(PATH=f"{open_dir}:{os.environ['PATH']}")
    command = [sys.executable, "-c", TWO_STARTS]
    row, owner, again, owner_again = await printed([*command, str(open_dir / "state")], environ)
    assert (row, again) == ("SELECT 1", "7")
    assert owner == owner_again != "0"
    private = open_dir / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        await printed([*command, str(private / "state")], environ)
    assert "as an ordinary user" in refused.value.stderr.decode()


async def printed(command: list[str], environ: Mapping[str, str]) -> list[str]:
    done = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, cwd="/", env=environ
    )
    return done.stdout.decode().split("\n")[:-1]


def test_system_binaries_are_found_without_the_wheel(
    open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("initdb", "postgres"):
        write_program(open_dir / tool, "exit 0")
    write_program(open_dir / "pg_config", "exit 1")
    monkeypatch.setenv("PATH", str(open_dir))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert find_binaries() == open_dir.resolve()
