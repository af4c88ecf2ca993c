"""A round of each kind; ``make torture`` runs many."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clawsettle.domain.journal import EventType
from clawsettle.domain.loss_events import Target
from tests.daemon.process import environment
from tests.torture.kinds import KINDS
from tests.torture.round import Result, open_kind_site, run_round

CONCURRENCY = 64
CLIENTS, NETTING_CLIENTS, LOSS_CLIENTS = 32, 16, 16
LEDGER_LOAD_S = NETTING_LOAD_S = LOSS_LOAD_S = 3.0
HERE = [
    name
    for name, kind in KINDS.items()
    if kind.disk_bytes is None and name not in {"ledger", "netting", "losses"}
]


async def run(name: str, concurrency: int, load_s: float) -> Result:
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        async with open_kind_site(name, Path(folder)) as site:
            return await run_round(site, name, f"test:{name}", concurrency, load_s)


@pytest.mark.parametrize("name", HERE)
async def test_nothing_acknowledged_is_lost_and_nothing_is_twice(name: str) -> None:
    result = await run(name, CONCURRENCY, KINDS[name].load_s)
    assert result.problems == []
    assert result.acknowledged_count >= 300


async def test_two_ledgers_on_one_book_apply_each_key_once_though_one_is_killed() -> None:
    result = await run("ledger", CLIENTS, LEDGER_LOAD_S)
    assert result.problems == []
    assert result.counts.keys() >= set(EventType)


async def test_two_daemons_net_each_payout_once_though_one_is_killed() -> None:
    result = await run("netting", NETTING_CLIENTS, NETTING_LOAD_S)
    assert result.problems == []
    assert result.counts.keys() >= {
        *(f"payout.{status}" for status in ("paid", "returned")),
        *(f"netting.run.{status}" for status in ("running", "applied")),
    }


async def test_two_daemons_tell_each_target_once_though_one_is_killed_and_targets_misbehave() -> (
    None
):
    result = await run("losses", LOSS_CLIENTS, LOSS_LOAD_S)
    assert result.problems == []
    told = {f"apply.{target}.forwarded" for target in Target}
    taken_back = {f"resolve.{target}.forwarded" for target in Target if target != "clawinsure"}
    assert result.counts.keys() >= told | taken_back | {"apply.clawinsure.not_applicable"}


def test_a_full_disk_loses_nothing_either(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.torture", "--kind", "full-disk", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    (file,) = tmp_path.glob("*.json")
    report = json.loads(file.read_text())
    if report["skipped"]:
        pytest.skip(report["skipped"]["full-disk"])
    assert [one["problems"] for one in report["rounds"]] == [[]]
    assert done.returncode == 0, done.stderr
