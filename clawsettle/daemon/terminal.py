"""What every command shares: its options, its output, and how it fails.

Errors are one line each on stderr. Exit codes: 0 done, 1 it failed or was refused, 2 the command
or the configuration is wrong.
"""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from clawsettle.domain.errors import ClawsettleError, ConfigError

EXIT_FAILED, EXIT_USAGE = 1, 2
DEFAULT_STATE_DIR = Path(".clawsettle")
DEFAULT_SANDBOX_BIND = "127.0.0.1:8789"

StateDirOption = Annotated[
    Path, Parameter(help="Where `clawsettle dev` keeps its database, secrets and addresses.")
]
BaseUrlOption = Annotated[str | None, Parameter(help="The daemon, if not the one here.")]
ConfigOption = Annotated[
    Path | None, Parameter(help="The configuration file, such as clawsettle.toml.")
]
JsonOption = Annotated[
    bool, Parameter(name="--json", negative="", help="Print JSON instead of text.")
]


def run_async(function: Callable[..., Any], *args: object) -> Any:
    """Run an async command to its end, and return what it returns; it fails as ``guarded`` does.

    Raises: KeyboardInterrupt at Ctrl-C, whatever else came of that.
    """
    import trio

    return guarded(
        lambda: trio.run(_until_interrupted, function, args, strict_exception_groups=True)
    )


async def _until_interrupted(function: Callable[..., Any], args: Sequence[object]) -> Any:
    """Cancel what is under way at Ctrl-C, which so comes at a checkpoint and nowhere in between."""
    import trio

    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(heed)
            result = await function(*args)
            nursery.cancel_scope.cancel()
            return result
    raise KeyboardInterrupt


def guarded(act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns; print its errors a line each and exit with their code."""
    try:
        return act()
    except (ClawsettleError, ExceptionGroup) as error:
        causes = list(_causes(error))
        strangers = [cause for cause in causes if not isinstance(cause, ClawsettleError)]
        if strangers:
            import structlog

            structlog.get_logger(__name__).critical("daemon_failed", exc_info=error)
        lines = [line for cause in causes for line in _lines(cause)]
        wrong = all(isinstance(cause, ConfigError) for cause in causes)
        fail(list(dict.fromkeys(lines)), EXIT_USAGE if wrong else EXIT_FAILED)


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _lines(error: BaseException) -> list[str]:
    if isinstance(error, ConfigError):
        return error.problems
    if isinstance(error, ClawsettleError):
        return [error.message]
    return [f"it failed: {type(error).__name__} (the log has the details)"]


def fail(problems: list[str], code: int) -> NoReturn:
    """Say what is wrong, a line each, and exit."""
    for problem in problems:
        complain(problem)
    sys.exit(code)


def complain(problem: str) -> None:
    """Say on stderr what is wrong, and go on."""
    print(f"clawsettle: {problem}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print JSON for people and programs."""
    import json

    print(json.dumps(value, indent=2))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their names; what is in a cell is shown as it is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    # In a pipe a table is as wide as its content: cut cells help nobody.
    if not console.is_terminal:
        console = Console(width=max(200, console.width), highlight=False)
    console.print(table)
