"""The command line: clear lines, exit codes, and nothing that shows a secret."""

import json
from pathlib import Path

import pytest
import trio

from clawsettle.storage.bridge import open_database
from tests.daemon.process import daemon_process, run

WHOLE = {
    "STRIPE_WEBHOOK_SIGNING_SECRET": "whsec_shown_nowhere",
    "SETTLE_ADMIN_KEY": "admin_shown_nowhere",
    "LEDGER_ADMIN_KEY": "ledger_shown_nowhere",
}


def _config(folder: Path, text: str = "") -> str:
    file = folder / "clawsettle.toml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("serve",),
        ("dev",),
        ("migrate",),
        ("config",),
        ("config", "check"),
        ("send",),
        ("sandbox",),
        ("dead-letters",),
        ("loss-events",),
        ("ledger",),
        ("ledger", "verify"),
        ("ledger", "export"),
    ],
)
async def test_help_is_there_for_every_command(words: tuple[str, ...]) -> None:
    shown = await run(*words, "--help")
    assert shown.returncode == 0
    assert "Usage: clawsettle" in shown.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sedn",), "sedn"),
        (("serve",), "--config"),
        (("send",), "EVENT_TYPE"),
        (("send", "payout.paid", "--amount", "ten"), "ten"),
        (("serve", "--config", "absent.toml"), "absent.toml"),
        (("dev", "--bind", "nowhere"), "daemon.bind"),
        (("sandbox", "--bind", "nowhere"), "nowhere"),
    ],
)
async def test_a_wrong_command_is_one_line_and_code_2(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    failed = await run(*words, cwd=tmp_path)
    assert failed.returncode == 2
    assert says in failed.stderr
    assert len(failed.stderr.splitlines()) == 1, failed.stderr


async def test_serve_lists_everything_that_is_missing_and_starts_nothing(tmp_path: Path) -> None:
    failed = await run("serve", "--config", _config(tmp_path))
    assert failed.returncode == 2
    for name in ("DATABASE_URL", *WHOLE):
        assert name in failed.stderr
    assert len(failed.stderr.splitlines()) == 4
    assert "Traceback" not in failed.stderr


async def test_serve_refuses_to_pay_nobody_in_production(tmp_path: Path) -> None:
    environ = {**WHOLE, "DATABASE_URL": "postgresql://127.0.0.1:9/none"}
    config = _config(tmp_path, '[payouts]\nprovider = "simulated"\n')
    failed = await run("serve", "--config", config, environ=environ)
    checked = await run("config", "check", "--config", config, environ=environ)
    for command in (failed, checked):
        assert command.returncode == 2
        assert 'payouts.provider: "simulated" pays nobody' in command.stderr


async def test_serve_refuses_a_database_that_does_not_answer(tmp_path: Path) -> None:
    environ = {**WHOLE, "DATABASE_URL": "postgresql://nobody:hidden_word@127.0.0.1:9/none"}
    failed = await run("serve", "--config", _config(tmp_path), environ=environ)
    assert failed.returncode == 1
    assert "cannot connect to the database" in failed.stderr
    assert "hidden_word" not in failed.stderr + failed.stdout
    assert len(failed.stderr.splitlines()) == 1


async def test_serve_runs_on_an_external_database(tmp_path: Path, empty_database: str) -> None:
    config = _config(tmp_path, '[daemon]\nbind = "127.0.0.1:0"\n[ledger]\nbind = "127.0.0.1:0"\n')
    environ = {**WHOLE, "DATABASE_URL": empty_database}
    async with daemon_process(tmp_path, environ=environ, serve=config) as daemon:
        assert "try" not in daemon.ready
        migrations = [line for line in daemon.lines() if line["event"] == "migration_applied"]
        assert len(migrations) == 8
    assert daemon.process.returncode == 0


async def test_migrate_applies_once(empty_database: str) -> None:
    first = await run("migrate", "--database-url", empty_database)
    assert first.returncode == 0
    assert first.stdout.splitlines() == [
        "applied 0001_webhook_forwarding.sql",
        "applied 0002_ledger.sql",
        "applied 0003_dead_letters.sql",
        "applied 0004_ledger_version.sql",
        "applied 0005_ledger_complete.sql",
        "applied 0006_payouts.sql",
        "applied 0007_netting.sql",
        "applied 0008_loss_events.sql",
    ]
    second = await run("migrate", environ={"DATABASE_URL": empty_database})
    assert second.stdout == "the schema is current\n"
    third = await run("migrate", "--json", environ={"DATABASE_URL": empty_database})
    assert json.loads(third.stdout) == {"applied": []}


async def test_migrate_refuses_a_newer_schema(database_url: str) -> None:
    async with open_database(database_url) as database:
        await database.fetch("INSERT INTO schema_migration VALUES (9999, 'x', 'y')")
    failed = await run("migrate", "--database-url", database_url)
    assert failed.returncode == 2
    assert "newer than this program" in failed.stderr


async def test_config_check_shows_origins_and_hides_secrets(tmp_path: Path) -> None:
    config = _config(tmp_path, "[forwarding]\nlease_s = 40\n")
    environ = {
        **WHOLE,
        "DATABASE_URL": "postgresql://app:shown_nowhere@db/app",
        "CLAWSETTLE_FORWARDING__ACKNOWLEDGE": "committed",
    }
    shown = await run("config", "check", "--config", config, "--json", environ=environ)
    assert shown.returncode == 0, shown.stderr
    report = json.loads(shown.stdout)
    rows = {row["key"]: row for row in report["settings"]}
    assert rows["forwarding.lease_s"]["origin"].endswith("clawsettle.toml")
    assert rows["forwarding.acknowledge"]["value"] == "committed"
    assert rows["forwarding.acknowledge"]["origin"].startswith("env CLAWSETTLE_FORWARDING")
    assert report["problems"] == []
    text = await run("config", "check", "--config", config, environ=environ)
    assert "shown_nowhere" not in shown.stdout + text.stdout + text.stderr
    assert "forwarding.acknowledge" in text.stdout


async def test_config_check_warns_of_half_a_target_and_is_content(tmp_path: Path) -> None:
    environ = {**WHOLE, "DATABASE_URL": "postgresql://db/app", "ESCROW_RISK_KEY": "shown_nowhere"}
    shown = await run("config", "check", "--json", environ=environ, cwd=tmp_path)
    assert shown.returncode == 0
    (warning,) = json.loads(shown.stdout)["warnings"]
    assert "ESCROW_BASE_URL" in warning
    assert shown.stderr.splitlines() == [f"clawsettle: warning: {warning}"]
    assert "shown_nowhere" not in shown.stdout + shown.stderr


async def test_config_check_names_every_problem_at_once(tmp_path: Path) -> None:
    config = _config(tmp_path, "[forwarding]\nlease_z = 40\npoll_s = 0\n[daemno]\n")
    failed = await run(
        "config",
        "check",
        "--config",
        config,
        environ={"FORWARDING_RETRY_BASE_SECONDS": "15abc", "SETTLE_ENV": "moon"},
    )
    assert failed.returncode == 2
    for named in ("lease_s", "poll_s", "daemon", "FORWARDING_RETRY_BASE_SECONDS", "SETTLE_ENV"):
        assert named in failed.stderr
    assert len(failed.stderr.splitlines()) == 5


async def test_send_without_a_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    failed = await run("send", "payout.paid", "--state-dir", str(tmp_path))
    assert failed.returncode == 2
    assert "clawsettle dev" in failed.stderr
    unreachable = await run(
        "send",
        "payout.paid",
        "--base-url",
        "http://127.0.0.1:9",
        "--ledger-base-url",
        "http://127.0.0.1:9",
        environ=WHOLE,
        cwd=tmp_path,
    )
    assert unreachable.returncode == 1
    assert "make run" in unreachable.stderr
    assert len(unreachable.stderr.splitlines()) == 1


async def test_send_shows_the_answer_and_the_ledger(tmp_path: Path, database_url: str) -> None:
    async with daemon_process(tmp_path, "--database-url", database_url):
        here = ("--state-dir", str(tmp_path))
        sent = await run("send", "payment_intent.succeeded", "--event-id", "evt_1", *here)
        assert sent.returncode == 0, sent.stderr
        assert "available 0 -> 2500" in sent.stdout
        again = await run(
            "send", "payment_intent.succeeded", "--event-id", "evt_1", "--amount", "7", *here
        )
        assert '"deduped": true' in again.stdout
        assert "available 2500 -> 2500" in again.stdout
        refund = await run("send", "charge.refunded", "--amount", "900", *here)
        assert "available 2500 -> 1600" in refund.stdout
        dispute = await run("send", "charge.dispute.created", *here)
        assert '"forwarded_to_ledger": false' in dispute.stdout
        wrong_mode = await run("send", "payout.paid", "--livemode", *here)
        assert wrong_mode.returncode == 1
        assert "LIVEMODE_MISMATCH" in wrong_mode.stdout


async def test_the_readmes_own_commands_work_as_written(tmp_path: Path, database_url: str) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [part for part in readme.split("```sh\n")[1:] if "evt_by_hand" in part]
    script = block.split("```")[0]
    state_dir = tmp_path / ".clawsettle"
    environ = {"SETTLE_ENV": "production"}
    async with daemon_process(state_dir, "--database-url", database_url, environ=environ) as daemon:
        for port, name in (("8787", "base_url"), ("8788", "ledger_base_url")):
            script = script.replace(f"http://127.0.0.1:{port}", daemon.facts[name])
        for deduped in ("false", "true"):
            with trio.fail_after(30):
                done = await trio.run_process(
                    ["sh", "-c", script], cwd=tmp_path, capture_stdout=True, capture_stderr=True
                )
            said = done.stdout.decode()
            assert f'"deduped":{deduped}' in said
            assert '"available":"1234"' in said
            assert '"valid":true' in said
