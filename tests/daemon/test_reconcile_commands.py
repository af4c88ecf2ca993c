"""``clawsettle reconcile`` as a process, on a real database and on files."""

import hashlib
import json
from pathlib import Path

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.payouts import PayoutStatus
from clawsettle.storage.bridge import open_database
from clawsettle.storage.kept_files import open_kept
from tests.daemon.process import run
from tests.storage.payout_histories import history, keep, store

DAY, AS_OF = "2026-02-11", "2026-02-12T00:00:00Z"


PAID, SENT = history("k1", PayoutStatus.PAID), history("k2", PayoutStatus.SUBMITTED)


async def write_history(database_url: str) -> None:
    async with open_database(database_url) as database:
        initiated = [history(key, PayoutStatus.INITIATED) for key in ("k1", "k2")]
        await keep(database, *initiated)
        await store(database, [PAID, SENT])


def altered(file: Path, old: str, new: str) -> Path:
    copy = file.with_name(f"altered-{file.name}")
    copy.write_text(file.read_text().replace(old, new))
    return copy


async def test_a_days_reports_become_files_and_the_same_cut_gives_the_same_bytes(
    database_url: str, tmp_path: Path
) -> None:
    await write_history(database_url)
    words = (
        "reconcile",
        "payouts",
        "--date",
        DAY,
        "--as-of",
        AS_OF,
        "--database-url",
        database_url,
    )
    first = await run(*words, "--out", str(tmp_path / "a" / "first"))
    # The embedded ledger of this database knows nothing of these payouts.
    assert first.returncode == 1
    assert "missing" in first.stdout
    assert first.stderr == "clawsettle: the records differ in 3 places\n"
    again = await run(*words, "--out", str(tmp_path / "again"))
    assert again.returncode == 1
    names = [
        "payouts-2026-02-11-as-of-20260212T000000Z-comparison.json",
        "payouts-2026-02-11-as-of-20260212T000000Z.json",
    ]
    for folder in ("a/first", "again"):
        assert sorted(file.name for file in (tmp_path / folder).iterdir()) == names
    for name in names:
        text = (tmp_path / "a/first" / name).read_text()
        assert text == (tmp_path / "again" / name).read_text()
        assert json.loads(text)["artifact_sha256"] in first.stdout
    shown = await run(*words)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == (tmp_path / "again" / names[1]).read_text() + "\n"
    report = json.loads(shown.stdout)
    hashed = {name: report[name] for name in ("date", "rows", "totals")}
    assert sha256_hex(canonical_json(hashed)) == report["artifact_sha256"]


async def test_csv_is_written_with_the_hash_of_its_content(
    database_url: str, tmp_path: Path
) -> None:
    await write_history(database_url)
    words = ("reconcile", "payouts", "--date", DAY, "--database-url", database_url)
    done = await run(*words, "--format", "csv", "--out", str(tmp_path))
    assert done.returncode == 1
    lines = (tmp_path / "payouts-2026-02-11.csv").read_text().split("\n")
    ids = sorted([PAID.payout.payout_id, SENT.payout.payout_id])
    assert [line.split(",")[0] for line in lines] == ["payout_id", *ids]
    assert json.loads((await run(*words)).stdout)["artifact_sha256"] in done.stdout


async def test_diff_tells_what_changed_and_refuses_what_was_altered(
    database_url: str, tmp_path: Path
) -> None:
    await write_history(database_url)
    words = ("reconcile", "payouts", "--date", DAY, "--database-url", database_url)
    early = ("--as-of", "2026-02-11T12:00:00.500Z")
    for name, cut in (("early", early), ("late", ("--as-of", AS_OF))):
        done = await run(*words, *cut)
        assert done.returncode == 0, done.stderr
        with open_kept(tmp_path / f"{name}.json") as stream:
            stream.write(done.stdout.encode())
    late, earlier = tmp_path / "late.json", tmp_path / "early.json"
    same = await run("reconcile", "diff", str(late), str(late))
    assert (same.returncode, same.stdout) == (0, "nothing changed\n")
    changed = await run("reconcile", "diff", str(earlier), str(late), "--json")
    assert changed.returncode == 1
    told = {(one["subject"], one["field"]) for one in json.loads(changed.stdout)["changes"]}
    assert (PAID.payout.payout_id, "status") in told
    assert ("totals", "") in told
    shown = await run("reconcile", "diff", str(earlier), str(late))
    assert shown.returncode == 1
    assert PAID.payout.payout_id in shown.stdout
    forged = altered(late, '"1200"', '"1300"')
    refused = await run("reconcile", "diff", str(forged), str(late))
    assert refused.returncode == 2
    assert refused.stderr == (
        f"clawsettle: {forged}: its content is not what its artifact_sha256 was made of\n"
    )


async def test_what_cannot_be_asked_is_one_line_and_code_2(
    database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "list").write_text("{}")
    wrong = {
        ("payouts", "--date", "2026-02-30"): "date must be a day of the calendar",
        ("payouts", "--date", DAY, "--as-of", "noon"): "as_of must be an instant",
        ("payouts", "--date", DAY, "--as-of", "2999-01-01T00:00:00Z"): "as_of must be at least",
        ("payouts", "--date", DAY, "--out", str(tmp_path / "text" / "x")): "cannot be made",
        ("diff", str(tmp_path / "none"), str(tmp_path / "list")): "cannot be read",
        ("diff", str(tmp_path / "text"), str(tmp_path / "list")): "its first line is that of no",
        ("diff", str(tmp_path / "list"), str(tmp_path / "list")): "neither a daily report nor",
    }
    for words, says in wrong.items():
        done = await run("reconcile", *words, environ={"DATABASE_URL": database_url})
        assert done.returncode == 2, (words, done.stdout)
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1


async def test_the_bytes_do_not_depend_on_the_machine(database_url: str, tmp_path: Path) -> None:
    await write_history(database_url)
    digests = set()
    for zone, seed, locale in (("Asia/Kolkata", "1", "C"), ("Pacific/Apia", "2", "de_DE.UTF-8")):
        folder = tmp_path / seed
        done = await run(
            *("reconcile", "payouts", "--date", DAY, "--as-of", AS_OF, "--out", str(folder)),
            environ={
                "DATABASE_URL": database_url,
                "TZ": zone,
                "PYTHONHASHSEED": seed,
                "LC_ALL": locale,
            },
        )
        assert done.returncode == 1, done.stderr
        files = sorted(folder.iterdir())
        digests.add(tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))
    assert len(digests) == 1
