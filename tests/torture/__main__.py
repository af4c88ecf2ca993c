"""``python -m tests.torture``: many rounds of each kind, a table, and a dated JSON."""

import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import attrs
import trio
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from clawsettle import __version__
from tests.torture.kinds import KINDS
from tests.torture.round import Result, open_kind_site, run_round

_INSIDE = "CLAWSETTLE_TORTURE_NAMESPACE"
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--")
app = App(help="Kill, cut, stall and fill under load, and check the books after each round.")


@app.default
def torture(
    *,
    rounds: Annotated[int, Parameter(help="Rounds of each kind.")] = 20,
    kind: Annotated[
        list[str] | None, Parameter(help="Kinds; all by default.", consume_multiple=True)
    ] = None,
    concurrency: Annotated[int, Parameter(help="Deliveries under way at once.")] = 64,
    load_s: Annotated[
        float | None, Parameter(help="Least seconds of load in a round; by default the kind's own.")
    ] = None,
    seed: Annotated[str | None, Parameter(help="Repeats what a run did; else random.")] = None,
    out: Annotated[Path, Parameter(help="Where the JSON goes.")] = Path(".torture"),
) -> None:
    """Run rounds; the exit code is 1 when anything does not hold."""
    names = kind or list(KINDS)
    if unknown := set(names) - set(KINDS):
        sys.exit(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    skipped = {} if may_mount() else {n: "no mount namespace" for n in names if _needs_disk(n)}
    seed = seed or secrets.token_hex(4)
    print(f"seed {seed}, concurrency {concurrency}, {rounds} rounds of each kind", flush=True)
    begun_at = datetime.now(UTC)
    out.mkdir(parents=True, exist_ok=True)
    results = [
        result
        for name in names
        if name not in skipped
        for result in trio.run(_run_kind, name, rounds, seed, concurrency, load_s, out)
    ]
    file = out / f"torture-{begun_at:%Y-%m-%dT%H%M%SZ}.json"
    report = {
        "at": begun_at.isoformat(),
        "version": __version__,
        "seed": seed,
        "concurrency": concurrency,
        "skipped": skipped,
        "rounds": [attrs.asdict(result) for result in results],
    }
    file.write_text(json.dumps(report, indent=2) + "\n")
    _print_table(results, skipped)
    print(file)
    sys.exit(any(result.problems for result in results))


async def _run_kind(
    name: str, rounds: int, seed: str, concurrency: int, load_s: float | None, out: Path
) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        Path(folder).chmod(0o755)
        async with open_kind_site(name, Path(folder)) as site:
            for number in range(1, rounds + 1):
                result = await run_round(site, name, f"{seed}:{name}:{number}", concurrency, load_s)
                results.append(result)
                print(_line(result, number, rounds), flush=True)
                if result.problems:
                    for log in Path(folder).glob("*.log"):
                        shutil.copy(log, out / f"{seed}-{name}-{number}-{log.name}")
    return results


def may_mount() -> bool:
    """Tell whether this process may mount disks of its own: it runs in a namespace for that."""
    return _INSIDE in os.environ


def enter_namespace() -> None:
    """Start this program anew in a mount namespace, where the system allows one."""
    if may_mount() or subprocess.run([*_NAMESPACE, "true"], check=False).returncode:
        return
    command = [*_NAMESPACE, sys.executable, "-m", "tests.torture", *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})  # noqa: S606 - no shell is meant


def _needs_disk(name: str) -> bool:
    return KINDS[name].disk_bytes is not None


def _line(result: Result, number: int, rounds: int) -> str:
    figures = f"ready_s={_s(result.ready_s)} takeover_s={_s(result.takeover_s)}"
    verdict = "; ".join(result.problems) or "holds"
    return (
        f"{result.kind} {number}/{rounds} acknowledged={result.acknowledged_count} {figures}"
        f" {result.outcomes} {verdict}"
    )


def _print_table(results: Sequence[Result], skipped: dict[str, str]) -> None:
    table = Table(
        "kind", "rounds", "held", "acknowledged", "ready s, median", "ready s, max",
        "takeover s, max", "p99 s, max", box=None, pad_edge=False,
    )  # fmt: skip
    for name in dict.fromkeys(result.kind for result in results):
        of_kind = [result for result in results if result.kind == name]
        ready = [r.ready_s for r in of_kind if r.ready_s is not None]
        taken = [r.takeover_s for r in of_kind if r.takeover_s is not None]
        table.add_row(
            name,
            str(len(of_kind)),
            str(sum(not result.problems for result in of_kind)),
            str(sum(result.acknowledged_count for result in of_kind)),
            _s(statistics.median(ready) if ready else None),
            _s(max(ready, default=None)),
            _s(max(taken, default=None)),
            _s(max(r.p99_s for r in of_kind if r.p99_s is not None)),
        )
    for name, reason in skipped.items():
        table.add_row(name, "0", f"skipped: {reason}")
    Console(width=120).print(table)


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    enter_namespace()
    app()
