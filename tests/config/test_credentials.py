from pathlib import Path

import pytest

from clawsettle.config import Secret, Settings, describe, load
from clawsettle.domain.errors import ConfigError

NAMES = [
    ("DATABASE_URL", "database.url", "postgresql://h/d"),
    ("CLAWSETTLE_DATABASE__URL", "database.url", "postgresql://h/d"),
    ("SETTLE_ADMIN_KEY", "admin.keys", "k,ey"),
    ("CLAWSETTLE_ADMIN__KEYS", "admin.keys", "k,ey"),
    ("STRIPE_WEBHOOK_SIGNING_SECRET", "stripe.webhook_secrets", "k,ey"),
    ("CLAWSETTLE_STRIPE__WEBHOOK_SECRETS", "stripe.webhook_secrets", "k,ey"),
    ("LEDGER_ADMIN_KEY", "ledger.admin_keys", "k,ey"),
    ("CLAWSETTLE_LEDGER__ADMIN_KEYS", "ledger.admin_keys", "k,ey"),
    ("LEDGER_SETTLEMENT_VERIFY_TOKEN", "ledger.verify_tokens", "k,ey"),
    ("LEDGER_RISK_KEY", "ledger.risk_keys", "k,ey"),
]


def value(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)


@pytest.mark.parametrize(("variable", "name", "text"), NAMES)
@pytest.mark.parametrize("way", ["directory", "file"])
def test_a_secret_comes_from_a_file(
    tmp_path: Path, variable: str, name: str, text: str, way: str
) -> None:
    if way == "directory":
        origin = variable.lower()
        path, environ = tmp_path / origin, {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    else:
        origin = f"{variable}_FILE"
        path = tmp_path / "anything"
        environ = {origin: f" {path} "}
    path.write_text(f"\n {text} \r\n\n")
    loaded = load(None, environ=environ)
    read = value(loaded.settings, name)
    assert read == (Secret(text) if name == "database.url" else (Secret(text),))
    assert loaded.origins[name] == f"credential {origin}"


def test_several_secrets_stand_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "settle_admin_key").write_text("one\n\n two \n")
    loaded = load(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert loaded.settings.admin.keys == (Secret("one"), Secret("two"))


def test_the_ledgers_files_add_up_and_json_may_span_lines(tmp_path: Path) -> None:
    (tmp_path / "ledger_admin_key").write_text("old")
    (tmp_path / "ledger_admin_keys_json").write_text('[\n"new"\n]\n')
    loaded = load(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert loaded.settings.ledger.admin_keys == (Secret("old"), Secret("new"))
    assert loaded.origins["ledger.admin_keys"] == (
        "credential ledger_admin_key + credential ledger_admin_keys_json"
    )


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tls_key").write_bytes(b"\xff")
    (tmp_path / "log_level").write_text("debug")
    loaded = load(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert loaded.settings == Settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {path}: No such file or directory"),
        (b"\xffhunter2", "cannot read {path}: it is not UTF-8"),
        (b" \n", "{path} holds nothing"),
    ],
)
def test_a_named_file_that_gives_no_secret_is_a_problem(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        load(None, environ={"SETTLE_ADMIN_KEY_FILE": str(path)})
    expected = f"admin.keys (credential SETTLE_ADMIN_KEY_FILE): {message.format(path=path)}"
    assert refusal.value.problems == [expected]


def test_a_single_secret_takes_one_line(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://h/d\npostgresql://h/e\n")
    with pytest.raises(ConfigError, match="must hold one line"):
        load(None, environ={"DATABASE_URL_FILE": str(tmp_path / "url")})


def test_a_missing_credentials_directory_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path / "gone")})
    assert refusal.value.problems == [
        f"env CREDENTIALS_DIRECTORY: cannot list {tmp_path / 'gone'}: No such file or directory"
    ]


# No secret leaks --------------------------------------------------------------------------------

HIDDEN = "hunter2"


def everywhere(tmp_path: Path) -> list[tuple[str | None, dict[str, str]]]:
    (tmp_path / "two_lines").write_text(f"{HIDDEN}\n{HIDDEN}x\n")
    (tmp_path / "json").write_text(f'["{HIDDEN}", 1]')
    return [
        (f'[admin]\nkeys = "{HIDDEN}"\n', {}),
        (f'[admin]\nkeys = ["{HIDDEN}", 3]\n', {}),
        (f'[database]\nurl = ["{HIDDEN}"]\n', {}),
        (f'[database]\nurl = "mysql://u:{HIDDEN}@h/d"\n', {}),
        (f'admin = "{HIDDEN}"\n', {}),
        (f'[admin]\nkey = "{HIDDEN}"\n', {}),
        (f'[admn]\nkeys = "{HIDDEN}"\n', {}),
        (f'[admin]\nkeys = "{HIDDEN}\n', {}),
        (None, {"DATABASE_URL": f"mysql://u:{HIDDEN}@h/d"}),
        (None, {"DATABASE_URL": f"postgresql://[u:{HIDDEN}@h/d"}),
        (None, {"DATABASE_URL_FILE": str(tmp_path / "two_lines")}),
        (None, {"LEDGER_ADMIN_KEYS_JSON": f'["{HIDDEN}", 1]'}),
        (None, {"LEDGER_ADMIN_KEYS_JSON": f'["{HIDDEN}'}),
        (None, {"LEDGER_ADMIN_KEYS_JSON_FILE": str(tmp_path / "json")}),
        (None, {"LEDGER_BASE_URL": f"http://u:{HIDDEN}@h/"}),
        (None, {"CLAWSETTLE_ADMIN__KEY": HIDDEN}),
        (None, {"SETTLE_ADMIN_KEY": HIDDEN, "SETTLE_ENV": "x"}),
    ]


def test_no_error_repeats_a_secret(tmp_path: Path) -> None:
    for text, environ in everywhere(tmp_path):
        path = None
        if text is not None:
            path = tmp_path / "clawsettle.toml"
            path.write_text(text)
        with pytest.raises(ConfigError) as refusal:
            load(path, environ=environ)
        shown = f"{refusal.value!r} {refusal.value} {refusal.value.problems}"
        assert HIDDEN not in shown, (text, environ)
        assert refusal.value.__context__ is None


def test_no_secret_occurs_in_settings_or_reports() -> None:
    loaded = load(
        None,
        environ={
            "DATABASE_URL": f"postgresql://u:{HIDDEN}@h/d?password={HIDDEN}",
            "SETTLE_ADMIN_KEY": f"{HIDDEN},{HIDDEN}b",
            "STRIPE_WEBHOOK_SIGNING_SECRET": HIDDEN,
            "LEDGER_ADMIN_KEYS_JSON": f'["{HIDDEN}"]',
        },
    )
    assert loaded.settings.admin.keys[1].reveal() == f"{HIDDEN}b"
    for shown in (repr(loaded), str(loaded.settings), repr(describe(loaded))):
        assert HIDDEN not in shown
