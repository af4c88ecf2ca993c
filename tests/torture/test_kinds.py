"""A round of each kind; ``make torture`` runs many."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.daemon.process import environment
from tests.torture.kinds import KINDS
from tests.torture.ledger_round import run_ledger_round
from tests.torture.round import open_kind_site, run_round
from tests.torture.site import open_site

CONCURRENCY = 64
HERE = [name for name, kind in KINDS.items() if kind.disk_bytes is None]


@pytest.mark.parametrize("name", HERE)
async def test_nothing_acknowledged_is_lost_and_nothing_is_twice(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        async with open_kind_site(name, Path(folder)) as site:
            result = await run_round(site, name, f"test:{name}", CONCURRENCY)
    assert result.problems == []
    assert result.acknowledged_count >= 300


async def test_of_two_daemons_on_one_ledger_one_may_die() -> None:
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        async with open_site(Path(folder)) as site:
            result = await run_ledger_round(site, "test:ledger", load_s=4)
    assert result.problems == []
    assert result.acknowledged_count >= 300


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
