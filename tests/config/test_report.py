from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clawsettle.config import (
    AuthSettings,
    DatabaseSettings,
    LedgerSettings,
    NettingSettings,
    PayoutSettings,
    Row,
    Secret,
    Settings,
    StripeSettings,
    describe,
    load,
    netting_defaults,
    production_problems,
    serving_problems,
)
from clawsettle.config.urls import is_database_url, show_database_url

SECRETS = {
    "DATABASE_URL": "postgresql://h/d",
    "STRIPE_WEBHOOK_SIGNING_SECRET": "a",
    "SETTLE_ADMIN_KEY": "b",
    "LEDGER_ADMIN_KEY": "c",
}


def test_serving_needs_nothing_more_than_its_secrets() -> None:
    assert serving_problems(load(None, environ=SECRETS).settings) == []


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("DATABASE_URL", "database.url"),
        ("STRIPE_WEBHOOK_SIGNING_SECRET", "stripe.webhook_secrets"),
        ("SETTLE_ADMIN_KEY", "admin.keys"),
        ("LEDGER_ADMIN_KEY", "ledger.admin_keys"),
    ],
)
def test_a_missing_secret_is_named_with_the_ways_to_set_it(variable: str, name: str) -> None:
    environ = {key: text for key, text in SECRETS.items() if key != variable}
    (line,) = serving_problems(load(None, environ=environ).settings)
    section, key = name.split(".")
    assert line.startswith(f"{name} is not set: write {key} under [{section}] in clawsettle.toml")
    assert f"set {variable}" in line
    assert f"{variable}_FILE" in line


def test_a_ledger_over_http_needs_its_address() -> None:
    environ = SECRETS | {"CLAWSETTLE_LEDGER__MODE": "http"}
    (line,) = serving_problems(load(None, environ=environ).settings)
    assert line == (
        "ledger.base_url is not set: write base_url under [ledger] in clawsettle.toml, "
        "or set LEDGER_BASE_URL in the environment"
    )
    environ["LEDGER_BASE_URL"] = "http://ledger"
    assert serving_problems(load(None, environ=environ).settings) == []


def test_payouts_through_stripe_need_its_key() -> None:
    environ = SECRETS | {"CLAWSETTLE_PAYOUTS__PROVIDER": "stripe"}
    (line,) = serving_problems(load(None, environ=environ).settings)
    assert line.startswith("stripe.secret_key is not set")
    assert "STRIPE_SECRET_KEY_FILE" in line
    environ["STRIPE_SECRET_KEY"] = "sk_test_1"
    assert serving_problems(load(None, environ=environ).settings) == []


def test_open_payouts_are_refused_in_production() -> None:
    settings = attrs.evolve(load(None, environ=SECRETS).settings, auth=AuthSettings(payouts="open"))
    (line,) = serving_problems(settings)
    assert line.startswith('auth.payouts: "open" lets anybody create payouts')
    staging = attrs.evolve(settings, stripe=attrs.evolve(settings.stripe, environment="staging"))
    assert serving_problems(staging) == []


def test_simulated_payouts_are_for_a_trial_or_for_staging() -> None:
    settings = Settings(payouts=PayoutSettings(provider="simulated"))
    (line,) = production_problems(settings)
    assert line.startswith('payouts.provider: "simulated" pays nobody')
    assert production_problems(Settings()) == []
    staging = attrs.evolve(settings, stripe=StripeSettings(environment="staging"))
    assert production_problems(staging) == []


def test_netting_takes_from_the_clearing_account_of_payouts_unless_told_otherwise() -> None:
    settings = Settings(payouts=PayoutSettings(clearing_domain="shop.payouts"))
    defaults = netting_defaults(settings)
    assert defaults.source_clearing_domain == "shop.payouts"
    assert defaults.target_clearing_domain == "clawsettle.netting"
    assert defaults.limit == 100
    assert set(defaults.targets) == {"clawsettle.netting"}
    told = NettingSettings(
        source_clearing_domain="old.payouts", target_clearing_domains=("bank", "reserve")
    )
    defaults = netting_defaults(attrs.evolve(settings, netting=told))
    assert defaults.source_clearing_domain == "old.payouts"
    assert set(defaults.targets) == {"clawsettle.netting", "bank", "reserve"}


@pytest.mark.parametrize(
    ("netting", "clash"),
    [
        (NettingSettings(target_clearing_domain="clawsettle.payouts"), "clawsettle.payouts"),
        (NettingSettings(target_clearing_domains=("bank", "clawsettle.payouts")),
         "clawsettle.payouts"),
        (NettingSettings(source_clearing_domain="clawsettle.netting"), "clawsettle.netting"),
        # What was swept to a payouts' account would count as payouts that are still there.
        (NettingSettings(source_clearing_domain="old", target_clearing_domain="clawsettle.payouts"),
         "clawsettle.payouts"),
    ],
)  # fmt: skip
def test_no_target_of_netting_may_be_a_source(netting: NettingSettings, clash: str) -> None:
    settings = attrs.evolve(load(None, environ=SECRETS).settings, netting=netting)
    (line,) = serving_problems(settings)
    assert line.startswith(f'netting: "{clash}" is a source')


def test_everything_missing_is_listed_in_one_go() -> None:
    settings = Settings(ledger=LedgerSettings(mode="http"))
    assert len(serving_problems(settings)) == 5


def test_describe_shows_every_key_with_its_value_and_origin(tmp_path: Path) -> None:
    path = tmp_path / "clawsettle.toml"
    path.write_text('[stripe]\ncurrencies = ["USD", "EUR"]\nallow_testmode_in_production = true\n')
    loaded = load(
        path,
        environ={"SETTLE_ADMIN_KEY": "a,b", "DATABASE_URL": "postgresql://u:p@h:5/d"},
        overrides={"daemon.bind": "[::1]:0"},
    )
    rows = describe(loaded)
    assert [row.key for row in rows] == list(loaded.origins)
    by_key = {row.key: row for row in rows}
    for row in [
        Row("daemon.bind", "[::1]:0", "command line"),
        Row("daemon.drain_s", "10.0", "default"),
        Row("database.url", "postgresql://u:hidden@h:5/d", "env DATABASE_URL"),
        Row("admin.keys", "hidden (2 set)", "env SETTLE_ADMIN_KEY"),
        Row("stripe.webhook_secrets", "not set", "default"),
        Row("stripe.currencies", "USD, EUR", str(path)),
        Row("stripe.allow_testmode_in_production", "true", str(path)),
        Row("ledger.base_url", "not set", "default"),
    ]:
        assert by_key[row.key] == row


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgres://u:p@[::1]:5/d", "postgres://u:hidden@[::1]:5/d"),
        ("postgresql://u:p@a:1,b:2/d", "postgresql://u:hidden@a:1,b:2/d"),
        ("postgresql://u:s3@cret@h/d", "postgresql://u:hidden@h/d"),
        ("postgresql://u:s3/cret@h/d", "hidden (1 set)"),
        ("postgresql://u:12?cret@h/d", "hidden (1 set)"),
        ("postgresql://u:s3#cret@h/d", "hidden (1 set)"),
        ("postgresql://u:s3@cr/et@h/d", "hidden (1 set)"),
        ("postgresql:///d?host=/run/pg&password=cret", "postgresql:///d?host=/run/pg"),
        ("postgresql:///d?passfile=/cret", "postgresql:///d"),
    ],
)
def test_a_database_url_is_shown_without_its_password(url: str, shown: str) -> None:
    loaded = load(None, environ={"DATABASE_URL": url})
    assert loaded.settings.database == DatabaseSettings(url=Secret(url))
    (row,) = [row for row in describe(loaded) if row.key == "database.url"]
    assert row.value == shown
    assert "cret" not in row.value


PIECES = st.text(st.sampled_from("@:/?#[]&=%;,\\ \n\tpé1"), max_size=6)


@given(before=PIECES, after=PIECES)
@example(before="1/", after="")
def test_no_password_however_odd_is_shown(before: str, after: str) -> None:
    url = f"postgresql://u:{before}hunter2{after}@h/d?sslmode=require"
    if is_database_url(url):
        assert "hunter2" not in show_database_url(url)


def test_currencies_the_embedded_ledger_would_refuse_stop_the_start() -> None:
    settings = Settings(stripe=StripeSettings(currencies=("USD", "EUR", "CHF")))
    (problem,) = [line for line in serving_problems(settings) if "currencies" in line]
    assert "would refuse CHF, EUR" in problem
    remote = attrs.evolve(settings, ledger=LedgerSettings(mode="http"))
    assert not [line for line in serving_problems(remote) if "currencies" in line]
