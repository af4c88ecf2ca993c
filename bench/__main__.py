"""``python -m bench``: run the cases, write the figures down, and make the table of the docs."""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import cattrs
import trio
from cyclopts import App, Parameter

from bench.cases import drain, flood, history, memory, open_transaction, throughput
from bench.ledger_cases import ledger, ledger_history, ledger_shares
from bench.loss_cases import losses
from bench.measurement import Bench, Outcome
from bench.netting_cases import netting
from bench.payout_cases import payouts
from bench.report import write_page
from clawsettle.storage.embedded import embedded_postgres

CASES: Mapping[str, Callable[[Bench], Awaitable[Outcome]]] = {
    case.__name__: case
    for case in (
        throughput,
        flood,
        drain,
        history,
        open_transaction,
        memory,
        ledger,
        ledger_shares,
        ledger_history,
        payouts,
        netting,
        losses,
    )
}
RESULTS = Path(__file__).parent / "results"
app = App(name="bench", help="Measure the main path and the ledger.", backend="trio")


@app.default
async def main(
    *,
    only: Annotated[list[str] | None, Parameter(help=f"Cases to run: {', '.join(CASES)}.")] = None,
    rounds: Annotated[int, Parameter(help="How many rounds of each comparison.")] = 5,
    seconds: Annotated[float, Parameter(help="How long one measurement lasts.")] = 5.0,
    out: Annotated[Path, Parameter(help="Where the dated JSON goes.")] = RESULTS,
) -> None:
    """Run the cases and write their figures to a dated JSON; all of them take about 55 minutes.

    A run of every case also writes the page docs/reference/performance.md.
    """
    names = only or list(CASES)
    if unknown := set(names) - set(CASES):
        sys.exit(f"bench: no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    at = datetime.now(UTC)
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="clawsettle-bench-") as scratch:
        async with embedded_postgres(Path(scratch), settings={"max_connections": "100"}) as server:
            bench = Bench(server, Path(scratch), rounds, seconds, _say)
            for name in names:
                _say(f"{name}: {(CASES[name].__doc__ or '').partition('.')[0].strip()}")
                outcomes[name] = await CASES[name](bench)
                for fact, value in outcomes[name].facts.items():
                    _say(f"  {fact}: {value}")
    report = {
        "at": at.isoformat(timespec="seconds"),
        "machine": _machine(),
        "rounds": rounds,
        "seconds": seconds,
        "cases": cattrs.unstructure(outcomes),
    }
    await trio.Path(out).mkdir(parents=True, exist_ok=True)
    path = out / f"{at:%Y-%m-%d}.json"
    await trio.Path(path).write_text(json.dumps(report, indent=1) + "\n")
    _say(f"written: {path}")
    if set(names) == set(CASES):
        write_page(report, outcomes)


def _machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average_after": os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    app()
