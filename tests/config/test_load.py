from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.config import Address, KeyProblem, Loaded, Secret, Settings, describe, load
from clawsettle.config.settings import ForwardingSettings, LedgerSettings
from clawsettle.config.sources import catalogue, generic_name
from clawsettle.domain.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "clawsettle.toml"
    path.write_text(text, encoding="utf-8")
    return path


def value(loaded: Loaded, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(loaded.settings, section), key)


def problems(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        load(path, environ=environ or {}, overrides=overrides or {})
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None  # a chained error would carry the values
    return refusal.value.problems


def test_nothing_given_is_all_defaults() -> None:
    loaded = load(None, environ={})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}


DEFAULTS = {
    "daemon.bind": Address("127.0.0.1", 8787),
    "daemon.drain_s": 10.0,
    "daemon.body_max_bytes": 1_048_576,
    "daemon.version_header": "0.1.0",
    "daemon.request_max": 1000,
    "database.url": None,
    "database.pool_max": 8,
    "database.statement_timeout_s": 10.0,
    "log.level": "info",
    "log.format": "auto",
    "admin.keys": (),
    "auth.payouts": "admin",
    "stripe.webhook_secrets": (),
    "stripe.environment": "production",
    "stripe.allow_testmode_in_production": False,
    "stripe.tolerance_s": 300,
    "stripe.future_skew_s": 300,
    "stripe.currencies": ("USD",),
    "stripe.unmappable": "refuse",
    "stripe.secret_key": None,
    "stripe.api_base_url": None,
    "stripe.connect_timeout_s": 3.0,
    "stripe.api_timeout_s": 8.0,
    "forwarding.acknowledge": "attempted",
    "forwarding.answer_deadline_s": 8.0,
    "forwarding.attempt_timeout_s": 10.0,
    "forwarding.lease_s": 30.0,
    "forwarding.retry_batch_limit": 25,
    "forwarding.retry_base_s": 15,
    "forwarding.retry_max_s": 300,
    "forwarding.attempts_max": 1000,
    "forwarding.age_max_s": 302_400,
    "forwarding.retry_budget_s": 20.0,
    "forwarding.poll_s": 2.0,
    "forwarding.in_flight_max": 64,
    "forwarding.mailbox_max": 2000,
    "ledger.mode": "embedded",
    "ledger.base_url": None,
    "ledger.admin_keys": (),
    "ledger.verify_tokens": (),
    "ledger.risk_keys": (),
    "ledger.bind": Address("127.0.0.1", 8788),
    "ledger.currency": "USD",
    "ledger.connect_timeout_s": 3.0,
    "ledger.batch_max": 500,
    "ledger.strict_accounts": False,
    "payouts.provider": "off",
    "payouts.clearing_domain": "clawsettle.payouts",
    "payouts.stuck_minutes": 60,
    "payouts.onboard_base_url": "https://dashboard.stripe.com/connect/accounts",
    "payouts.onboard_refresh_url": None,
    "payouts.onboard_return_url": None,
    "payouts.answer_deadline_s": 20.0,
    "payouts.step_timeout_s": 10.0,
    "payouts.lease_s": 30.0,
    "payouts.retry_base_s": 15,
    "payouts.retry_max_s": 300,
    "payouts.ask_after_s": 3600,
    "payouts.poll_s": 2.0,
    "payouts.in_flight_max": 64,
    "payouts.mailbox_max": 2000,
    "netting.source_clearing_domain": None,
    "netting.target_clearing_domain": "clawsettle.netting",
    "netting.target_clearing_domains": (),
    "netting.default_limit": 100,
    "netting.every_s": 0,
    "netting.answer_deadline_s": 20.0,
    "netting.transfer_timeout_s": 10.0,
    "netting.lease_s": 30.0,
    "netting.poll_s": 2.0,
    "netting.in_flight_max": 64,
    "netting.batch_max": 256,
    "loss_events.read_tokens": (),
    "loss_events.attempt_timeout_s": 10.0,
    "loss_events.connect_timeout_s": 3.0,
    "loss_events.lease_s": 30.0,
    "loss_events.retry_batch_limit": 25,
    "loss_events.retry_base_s": 15,
    "loss_events.retry_max_s": 300,
    "loss_events.attempts_max": 1000,
    "loss_events.age_max_s": 604_800,
    "loss_events.alert_after_s": 900,
    "loss_events.retry_budget_s": 20.0,
    "loss_events.poll_s": 2.0,
    "loss_events.in_flight_max": 32,
    "loss_events.mailbox_max": 2000,
    "loss_events.breaker_failures_max": 5,
    "loss_events.breaker_open_s": 15.0,
    "targets.escrow_base_url": None,
    "targets.escrow_keys": (),
    "targets.clawinsure_base_url": None,
    "targets.clawinsure_keys": (),
    "targets.clawincome_base_url": None,
    "targets.clawincome_keys": (),
    "targets.clawbounties_base_url": None,
    "targets.clawbounties_keys": (),
    "delivery_log.retention_days": 90,
}


def test_the_defaults_are_the_documented_ones() -> None:
    loaded = load(None, environ={})
    assert {name: value(loaded, name) for name in loaded.origins} == DEFAULTS
    assert list(loaded.origins) == list(DEFAULTS)


# Precedence -------------------------------------------------------------------------------------

LAYERS = ["file", "directory", "file_name", "contract", "generic", "command line"]
ORIGINS = [
    "{path}",
    "credential settle_admin_key",
    "credential SETTLE_ADMIN_KEY_FILE",
    "env SETTLE_ADMIN_KEY",
    "env CLAWSETTLE_ADMIN__KEYS",
    "command line",
]


@pytest.mark.parametrize("top", range(len(LAYERS)))
def test_the_later_source_wins_and_is_named(tmp_path: Path, top: int) -> None:
    path = write(tmp_path, '[admin]\nkeys = ["file"]\n')
    environ = {}
    if top >= 1:
        (tmp_path / "settle_admin_key").write_text("directory\n")
        environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    if top >= 2:
        (tmp_path / "named").write_text("file_name\n")
        environ["SETTLE_ADMIN_KEY_FILE"] = str(tmp_path / "named")
    if top >= 3:
        environ["SETTLE_ADMIN_KEY"] = "contract"
    if top >= 4:
        environ["CLAWSETTLE_ADMIN__KEYS"] = "generic"
    overrides = {"admin.keys": "command line"} if top >= 5 else {}
    loaded = load(path, environ=environ, overrides=overrides)
    assert loaded.settings.admin.keys == (Secret(LAYERS[top]),)
    assert loaded.origins["admin.keys"] == ORIGINS[top].format(path=path)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("SETTLE_VERSION", "daemon.version_header"),
        ("CLAWSETTLE_DAEMON__VERSION_HEADER", "daemon.version_header"),
        ("DATABASE_URL", "database.url"),
        ("SETTLE_ADMIN_KEY", "admin.keys"),
        ("SETTLE_ENV", "stripe.environment"),
        ("FORWARDING_RETRY_BASE_SECONDS", "forwarding.retry_base_s"),
        ("CLAWSETTLE_FORWARDING__POLL_S", "forwarding.poll_s"),
        ("LEDGER_ADMIN_KEYS_JSON", "ledger.admin_keys"),
        ("CLAWSETTLE_ADMIN__KEYS_FILE", "admin.keys"),
        ("CREDENTIALS_DIRECTORY", "admin.keys"),
        ("NETTING_SOURCE_CLEARING_DOMAIN", "netting.source_clearing_domain"),
        ("NETTING_RUN_DEFAULT_LIMIT", "netting.default_limit"),
        ("ESCROW_BASE_URL", "targets.escrow_base_url"),
        ("ESCROW_RISK_KEY", "targets.escrow_keys"),
    ],
)
@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_environment_value_counts_as_unset(variable: str, name: str, blank: str) -> None:
    loaded = load(None, environ={variable: blank})
    assert loaded.settings == Settings()
    assert loaded.origins[name] == "default"


def test_a_blank_later_source_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = write(tmp_path, '[stripe]\nenvironment = "staging"\n')
    loaded = load(path, environ={"SETTLE_ENV": " "}, overrides={"stripe.environment": None})
    assert loaded.settings.stripe.environment == "staging"
    assert loaded.origins["stripe.environment"] == str(path)


@pytest.mark.parametrize("name", ["daemon.version_header", "database.url", "ledger.base_url"])
def test_a_blank_text_in_the_file_counts_as_unset(tmp_path: Path, name: str) -> None:
    section, key = name.split(".")
    loaded = load(write(tmp_path, f'[{section}]\n{key} = " "\n'), environ={})
    assert loaded.settings == Settings()
    assert loaded.origins[name] == "default"


def test_a_value_that_a_later_source_replaces_is_not_judged(tmp_path: Path) -> None:
    path = write(tmp_path, "[forwarding]\nretry_base_s = 0\n")
    loaded = load(path, environ={"FORWARDING_RETRY_BASE_SECONDS": "7"})
    assert loaded.settings.forwarding.retry_base_s == 7


# Values from text -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("SETTLE_VERSION", " 0.1.1 ", "daemon.version_header", "0.1.1"),
        ("CLAWSETTLE_DAEMON__BIND", " [::1]:0 ", "daemon.bind", Address("::1", 0)),
        ("CLAWSETTLE_DAEMON__DRAIN_S", "5", "daemon.drain_s", 5.0),
        ("CLAWSETTLE_DAEMON__DRAIN_S", " 0.25 ", "daemon.drain_s", 0.25),
        ("CLAWSETTLE_LOG__LEVEL", "WARNING", "log.level", "warning"),
        ("SETTLE_ADMIN_KEY", " one , two,,one ", "admin.keys", (Secret("one"), Secret("two"))),
        ("SETTLE_ADMIN_KEY", " , ", "admin.keys", ()),
        ("STRIPE_WEBHOOK_SIGNING_SECRET", "a,b", "stripe.webhook_secrets",
         (Secret("a"), Secret("b"))),
        ("SETTLE_ENV", " PROD ", "stripe.environment", "production"),
        ("SETTLE_ENV", "production", "stripe.environment", "production"),
        ("SETTLE_ENV", "Live", "stripe.environment", "production"),
        ("SETTLE_ENV", "stage", "stripe.environment", "staging"),
        ("SETTLE_ENV", "STAGING", "stripe.environment", "staging"),
        ("CLAWSETTLE_STRIPE__CURRENCIES", "USD, EUR", "stripe.currencies", ("USD", "EUR")),
        ("FORWARDING_RETRY_BATCH_LIMIT", "200", "forwarding.retry_batch_limit", 200),
        ("FORWARDING_RETRY_BASE_SECONDS", " 015 ", "forwarding.retry_base_s", 15),
        ("FORWARDING_RETRY_MAX_SECONDS", "1", "forwarding.retry_max_s", 1),
        ("LEDGER_BASE_URL", " https://l.example/api// ", "ledger.base_url",
         "https://l.example/api/"),
        ("LEDGER_BASE_URL", "http://[::1]:8788/", "ledger.base_url", "http://[::1]:8788"),
        ("LEDGER_ADMIN_KEY", " a,b ", "ledger.admin_keys", (Secret("a,b"),)),
        ("LEDGER_ADMIN_KEYS_JSON", '["a", " b,c "]', "ledger.admin_keys",
         (Secret("a"), Secret("b,c"))),
        ("LEDGER_ADMIN_KEYS_JSON", "[]", "ledger.admin_keys", ()),
        ("CLAWSETTLE_LEDGER__ADMIN_KEYS", "a,b", "ledger.admin_keys", (Secret("a"), Secret("b"))),
        ("LEDGER_SETTLEMENT_VERIFY_TOKEN", "a,b", "ledger.verify_tokens",
         (Secret("a"), Secret("b"))),
        ("LEDGER_RISK_KEY", " a ", "ledger.risk_keys", (Secret("a"),)),
        ("CLAWSETTLE_LEDGER__STRICT_ACCOUNTS", "yes", "ledger.strict_accounts", True),
        ("DATABASE_URL", " postgres://h/d ", "database.url", Secret("postgres://h/d")),
        ("STRIPE_SECRET_KEY", " sk_test_1 ", "stripe.secret_key", Secret("sk_test_1")),
        ("PAYOUTS_CLEARING_DOMAIN", " shop.payouts ", "payouts.clearing_domain", "shop.payouts"),
        ("PAYOUT_STUCK_MINUTES_DEFAULT", "5", "payouts.stuck_minutes", 5),
        ("STRIPE_CONNECT_ONBOARD_BASE_URL", "http://localhost:1/x/", "payouts.onboard_base_url",
         "http://localhost:1/x"),
        ("NETTING_SOURCE_CLEARING_DOMAIN", " a ", "netting.source_clearing_domain", "a"),
        ("NETTING_TARGET_CLEARING_DOMAIN", " b ", "netting.target_clearing_domain", "b"),
        ("NETTING_RUN_DEFAULT_LIMIT", " 100000 ", "netting.default_limit", 100_000),
        ("CLAWSETTLE_NETTING__EVERY_S", "60", "netting.every_s", 60),
        ("CLAWSETTLE_NETTING__EVERY_S", "0", "netting.every_s", 0),
        ("CLAWSETTLE_NETTING__TARGET_CLEARING_DOMAINS", "c, d,,c",
         "netting.target_clearing_domains", ("c", "d")),
        ("CLAWSETTLE_NETTING__TARGET_CLEARING_DOMAINS", ",", "netting.target_clearing_domains", ()),
        ("SETTLE_LOSS_READ_TOKEN", "a, b", "loss_events.read_tokens", (Secret("a"), Secret("b"))),
        ("LOSS_FORWARD_RETRY_BATCH_LIMIT", "500", "loss_events.retry_batch_limit", 500),
        ("ESCROW_BASE_URL", " https://e.example/api// ", "targets.escrow_base_url",
         "https://e.example/api/"),
        ("ESCROW_RISK_KEY", " a,b ", "targets.escrow_keys", (Secret("a,b"),)),
        ("CLAWINSURE_BASE_URL", "http://i/", "targets.clawinsure_base_url", "http://i"),
        ("INSURE_RISK_KEY", "a", "targets.clawinsure_keys", (Secret("a"),)),
        ("CLAWINCOME_BASE_URL", "http://i", "targets.clawincome_base_url", "http://i"),
        ("INCOME_RISK_KEY", "a", "targets.clawincome_keys", (Secret("a"),)),
        ("CLAWBOUNTIES_BASE_URL", "http://b", "targets.clawbounties_base_url", "http://b"),
        ("BOUNTIES_RISK_KEY", "a", "targets.clawbounties_keys", (Secret("a"),)),
    ],
)  # fmt: skip
def test_a_text_from_the_environment_is_read_by_the_keys_type(
    variable: str, text: str, name: str, expected: object
) -> None:
    read = value(load(None, environ={variable: text}), name)
    assert (read, type(read)) == (expected, type(expected))


@pytest.mark.parametrize(
    "variable",
    [
        "STRIPE_ALLOW_TESTMODE_EVENTS_IN_PROD",
        "CLAWSETTLE_STRIPE__ALLOW_TESTMODE_IN_PRODUCTION",
    ],
)
@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), (" TRUE ", True), ("yes", True), ("Y", True), ("on", False), ("0", False),
     ("no", False), ("2", False)],
)  # fmt: skip
def test_only_the_contracts_words_mean_yes(variable: str, text: str, expected: bool) -> None:
    settings = load(None, environ={variable: text}).settings
    assert settings.stripe.allow_testmode_in_production is expected


def test_the_ledgers_key_and_its_json_array_add_up() -> None:
    loaded = load(
        None, environ={"LEDGER_ADMIN_KEY": "old", "LEDGER_ADMIN_KEYS_JSON": '["new", "old"]'}
    )
    assert loaded.settings.ledger.admin_keys == (Secret("old"), Secret("new"))
    assert loaded.origins["ledger.admin_keys"] == (
        "env LEDGER_ADMIN_KEY + env LEDGER_ADMIN_KEYS_JSON"
    )


def test_a_ledger_address_in_the_environment_switches_nothing() -> None:
    settings = load(None, environ={"LEDGER_BASE_URL": "http://ledger"}).settings
    assert settings.ledger.mode == "embedded"


def test_an_unrelated_variable_is_left_alone() -> None:
    loaded = load(None, environ={"CLAWSETTLE_CONFIG": "x", "PATH": "y", "CLAWSETTLE__": ""})
    assert loaded.settings == Settings()


def test_overrides_take_texts_and_typed_values() -> None:
    overrides = {
        "daemon.bind": Address("::", 1),
        "daemon.drain_s": 3,
        "forwarding.poll_s": "0.5",
        "stripe.currencies": "USD,EUR",
        "admin.keys": [Secret("k")],
        "log.level": None,
    }
    settings = load(None, environ={}, overrides=overrides).settings
    assert settings.daemon.bind == Address("::", 1)
    assert settings.daemon.drain_s == 3.0
    assert settings.forwarding.poll_s == 0.5
    assert settings.stripe.currencies == ("USD", "EUR")
    assert settings.admin.keys == (Secret("k"),)
    assert settings.log.level == "info"


# Values from the file ---------------------------------------------------------------------------


def test_the_file_is_read_by_its_own_types(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[daemon]\ndrain_s = 5\n[stripe]\nenvironment = "Prod"\ncurrencies = ["EUR", "", "USD"]\n'
        'allow_testmode_in_production = true\nwebhook_secrets = ["a", " b ", " "]\n'
        "[forwarding]\nretry_base_s = 600\n",
    )
    settings = load(path, environ={}).settings
    assert settings.daemon.drain_s == 5.0
    assert isinstance(settings.daemon.drain_s, float)
    assert settings.stripe.environment == "production"
    assert settings.stripe.currencies == ("EUR", "USD")
    assert settings.stripe.allow_testmode_in_production is True
    assert settings.stripe.webhook_secrets == (Secret("a"), Secret("b"))
    # A base above the maximum is allowed: the delay is then the maximum.
    assert settings.forwarding.retry_base_s > settings.forwarding.retry_max_s


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('[forwarding]\nretry_base_s = "15"',
         'forwarding.retry_base_s ({path}): must be a whole number of seconds from 1 to 864'),
        ("[forwarding]\nretry_base_s = 15.0", "seconds from 1 to 86400, got 15.0"),
        ("[forwarding]\nretry_base_s = true", "seconds from 1 to 86400, got true"),
        ("[forwarding]\npoll_s = nan", "must be a number of seconds from 0.01 to 3600, got NaN"),
        ("[forwarding]\npoll_s = inf", "got Infinity"),
        ("[forwarding]\npoll_s = [1]", "got [1]"),
        ("[daemon]\nbind = 8787", "daemon.bind ({path}): must be host:port"),
        ("[log]\nlevel = 3", "must be one of debug, info, warning, error, got 3"),
        ("[stripe]\ncurrencies = []", "at least one, got []"),
        ('[stripe]\ncurrencies = ["usd"]', 'currency codes, at least one, got ["usd"]'),
        ('[stripe]\ncurrencies = "USD"', 'got "USD"'),
        ('[stripe]\nallow_testmode_in_production = "yes"', 'must be true or false, got "yes"'),
        ("[daemon]\nversion_header = 1", "printable ASCII characters, got 1"),
        ("[daemon]\nversion_header = 1979-05-27", 'got "1979-05-27"'),
        ('daemon = "x"', "daemon ({path}): must be a section, written [daemon]"),
        ("[demon]\nbind = 1", "demon ({path}): unknown section; the nearest known is [daemon]"),
        ("[daemon]\nbnd = 1", "daemon.bnd ({path}): unknown key; the nearest known is daemon.bind"),
        ("[daemon.bind]\nhost = 1", "daemon.bind ({path}): must be host:port"),
    ],
)  # fmt: skip
def test_a_wrong_value_in_the_file_is_named_with_its_key(
    tmp_path: Path, line: str, message: str
) -> None:
    path = write(tmp_path, line + "\n")
    (problem,) = problems(path)
    assert message.format(path=path) in problem


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[daemon]\nbind = "x\n', "line 2, column 10: "),
        ("[daemon]\nbind =", "line 2, column 7: "),
        ("[log]\nlevel = warn\n", "line 2, column 9: "),
        ("[log]\n[log]\n", "line 2, column 5: "),
    ],
)
def test_bad_toml_is_one_problem_with_file_line_and_column(
    tmp_path: Path, text: str, place: str
) -> None:
    path = write(tmp_path, text)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: {place}")


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "clawsettle.toml"
    assert problems(path) == [f"{path}: there is no such file"]


def test_an_unreadable_file_is_one_problem(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]
    path = tmp_path / "clawsettle.toml"
    path.write_bytes(b"\xff")
    assert problems(path) == [f"{path}: cannot be read: it is not UTF-8"]


# Problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["15abc", "15.9", "0", "-1", "1e3", "1_0", "٣", "86401", "9" * 40])
def test_whole_numbers_are_strict(text: str) -> None:
    (problem,) = problems(environ={"FORWARDING_RETRY_BASE_SECONDS": text})
    assert problem.startswith(
        "forwarding.retry_base_s (env FORWARDING_RETRY_BASE_SECONDS): "
        "must be a whole number of seconds from 1 to 86400, got "
    )


def test_a_problem_reads_as_documented() -> None:
    (problem,) = problems(environ={"FORWARDING_RETRY_BASE_SECONDS": "15abc"})
    assert problem == (
        "forwarding.retry_base_s (env FORWARDING_RETRY_BASE_SECONDS): "
        'must be a whole number of seconds from 1 to 86400, got "15abc"'
    )


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SETTLE_ENV": "test"}, 'must be one of production, staging, got "test"'),
        ({"FORWARDING_RETRY_BATCH_LIMIT": "201"}, 'events from 1 to 200, got "201"'),
        ({"CLAWSETTLE_DAEMON__DRAIN_S": "0"}, 'seconds from 0.01 to 3600, got "0"'),
        ({"CLAWSETTLE_DAEMON__DRAIN_S": "-1.5"}, 'got "-1.5"'),
        ({"CLAWSETTLE_DAEMON__DRAIN_S": "nan"}, 'got "nan"'),
        ({"CLAWSETTLE_DAEMON__DRAIN_S": "10s"}, 'got "10s"'),
        ({"CLAWSETTLE_DAEMON__BIND": "8787"}, 'daemon.bind (env CLAWSETTLE_DAEMON__BIND): must be'),
        ({"CLAWSETTLE_LEDGER__MODE": "remote"}, 'must be one of embedded, http, got "remote"'),
        ({"SETTLE_VERSION": "a\nb"}, "printable ASCII"),
        ({"LEDGER_BASE_URL": "ledger:8788"}, 'fragment, got "ledger:8788"'),
        ({"LEDGER_BASE_URL": "http://"}, "URL with a host"),
        ({"LEDGER_BASE_URL": "http://h:port"}, "URL with a host"),
        ({"LEDGER_BASE_URL": "http://h/?q=1"}, "URL with a host"),
        ({"LEDGER_BASE_URL": "http://[::1"}, "URL with a host"),
        ({"DATABASE_URL": "mysql://h/d"}, "database.url (env DATABASE_URL): must be a postgresql"),
        ({"LEDGER_ADMIN_KEYS_JSON": "nope"},
         "ledger.admin_keys (env LEDGER_ADMIN_KEYS_JSON): must be a JSON array of non-blank str"),
        ({"LEDGER_ADMIN_KEYS_JSON": '{"a": 1}', "LEDGER_ADMIN_KEY": "k"}, "must be a JSON array"),
        ({"LEDGER_ADMIN_KEYS_JSON": '["a", " "]'}, "must be a JSON array"),
        ({"LEDGER_ADMIN_KEYS_JSON": '["a", 1]'}, "must be a JSON array"),
        ({"CLAWSETTLE_FORWARDING__POL_S": "1"},
         ("env CLAWSETTLE_FORWARDING__POL_S: unknown key; "
          "the nearest known is CLAWSETTLE_FORWARDING__POLL_S")),
        ({"CLAWSETTLE_ADMN__KEYS": "k"}, "the nearest known is CLAWSETTLE_ADMIN__KEYS"),
        ({"CLAWSETTLE_DAEMON__BIND_FILE": "/x"}, "unknown key"),
        ({"CLAWSETTLE_FORWARDING__LEASE_S": "10"},
         ("forwarding.attempt_timeout_s (default): must be shorter than half of "
          "forwarding.lease_s (10 seconds), got 10")),
        ({"CLAWSETTLE_PAYOUTS__LEASE_S": "20"},
         ("payouts.step_timeout_s (default): must be shorter than half of "
          "payouts.lease_s (20 seconds), got 10")),
        ({"PAYOUT_STUCK_MINUTES_DEFAULT": "5x"}, 'minutes from 1 to 43200, got "5x"'),
        ({"PAYOUT_STUCK_MINUTES_DEFAULT": "0"}, 'minutes from 1 to 43200, got "0"'),
        ({"PAYOUTS_CLEARING_DOMAIN": "x" * 256}, "1 to 255 printable characters"),
        ({"PAYOUTS_CLEARING_DOMAIN": "a\tb"}, "1 to 255 printable characters"),
        ({"STRIPE_CONNECT_ONBOARD_BASE_URL": "https://h/?a=1"}, "URL with a host"),
        ({"CLAWSETTLE_PAYOUTS__ONBOARD_RETURN_URL": "http://shop.example"}, "https:// URL"),
        ({"CLAWSETTLE_AUTH__PAYOUTS": "none"}, "must be one of admin, open"),
        ({"NETTING_RUN_DEFAULT_LIMIT": "100x"},
         ("netting.default_limit (env NETTING_RUN_DEFAULT_LIMIT): must be a whole number of "
          'payouts from 1 to 100000, got "100x"')),
        ({"NETTING_RUN_DEFAULT_LIMIT": "0"}, 'payouts from 1 to 100000, got "0"'),
        ({"NETTING_RUN_DEFAULT_LIMIT": "100001"}, 'payouts from 1 to 100000, got "100001"'),
        ({"NETTING_TARGET_CLEARING_DOMAIN": "a\tb"}, "1 to 255 printable characters"),
        ({"CLAWSETTLE_NETTING__TARGET_CLEARING_DOMAINS": "a," + "x" * 256},
         "must be a list of texts of 1 to 255 printable characters"),
        ({"CLAWSETTLE_NETTING__EVERY_S": "59"},
         'must be 0, or a whole number of seconds from 60 to 86400, got "59"'),
        ({"CLAWSETTLE_NETTING__EVERY_S": "86401"}, 'seconds from 60 to 86400, got "86401"'),
        ({"CLAWSETTLE_NETTING__LEASE_S": "20"},
         ("netting.transfer_timeout_s (default): must be shorter than half of "
          "netting.lease_s (20 seconds), got 10")),
        ({"LOSS_FORWARD_RETRY_BATCH_LIMIT": "0"},
         ("loss_events.retry_batch_limit (env LOSS_FORWARD_RETRY_BATCH_LIMIT): must be a whole "
          'number of deliveries from 1 to 500, got "0"')),
        ({"CLAWSETTLE_LOSS_EVENTS__ATTEMPT_TIMEOUT_S": "15"},
         ("loss_events.attempt_timeout_s (env CLAWSETTLE_LOSS_EVENTS__ATTEMPT_TIMEOUT_S): must be "
          "shorter than half of loss_events.lease_s (30 seconds), got 15")),
        ({"ESCROW_BASE_URL": "escrow.example"}, "targets.escrow_base_url (env ESCROW_BASE_URL)"),
    ],
)  # fmt: skip
def test_a_wrong_environment_is_one_problem(environ: dict[str, str], message: str) -> None:
    (problem,) = problems(environ=environ)
    assert message in problem


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"log.lvl": "info"}, "log.lvl (command line): unknown key; the nearest known is log.lev"),
        ({"log.level": "loud"}, "log.level (command line): must be one of"),
        ({"log": {}}, "log (command line): unknown key"),
        ({"daemon.request_max": 0}, "from 1 to 100000, got 0"),
    ],
)
def test_a_wrong_override_is_one_problem(overrides: dict[str, object], message: str) -> None:
    (problem,) = problems(overrides=overrides)
    assert message in problem


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[forwarding]\nretry_base_s = 0\nretry_max_s = 0\nbogus = 1\n[nowhere]\n"
        "[daemon]\nrequest_max = 0\n",
    )
    found = problems(
        path,
        environ={
            "SETTLE_ENV": "x",
            "CLAWSETTLE_NO__SUCH": "1",
            "LEDGER_ADMIN_KEYS_JSON": "x",
            "SETTLE_ADMIN_KEY_FILE": str(tmp_path / "gone"),
        },
        overrides={"no.such": 1, "log.level": "x"},
    )
    assert len(found) == 11
    assert len(set(found)) == 11


def test_a_long_value_is_cut_in_the_message() -> None:
    (problem,) = problems(environ={"SETTLE_ENV": "x" * 10_000})
    assert len(problem) < 200


TEXTS = st.text(st.characters(exclude_characters="\0"))
VARIABLES = [generic_name(name) for name in DEFAULTS] + [
    env.name for key in catalogue(Settings).values() for env in key.env
]


@given(environ=st.dictionaries(st.sampled_from(VARIABLES), TEXTS, max_size=4))
def test_any_environment_gives_settings_or_a_config_error(environ: dict[str, str]) -> None:
    try:
        describe(load(None, environ=environ))
    except ConfigError as refusal:
        str(refusal).encode("utf-8")  # a log can hold it


# Settings made in code --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: ForwardingSettings(attempt_timeout_s=15.0),
        lambda: ForwardingSettings(retry_batch_limit=201),
        lambda: LedgerSettings(mode="remote"),  # type: ignore[arg-type]
        lambda: LedgerSettings(admin_keys=("text",)),  # type: ignore[arg-type]
    ],
)
def test_settings_made_in_code_pass_the_same_rules(make: Callable[[], object]) -> None:
    with pytest.raises(KeyProblem, match="must be"):
        make()


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().daemon.drain_s = 1.0  # type: ignore[misc]
