import pytest

from clawsettle.config import Secret, TargetAddress, load, target_addresses, target_warnings
from clawsettle.domain.loss_events import Target

OTHERS = {
    Target.ESCROW: ("ESCROW_BASE_URL", "ESCROW_RISK_KEY"),
    Target.CLAWINSURE: ("CLAWINSURE_BASE_URL", "INSURE_RISK_KEY"),
    Target.CLAWINCOME: ("CLAWINCOME_BASE_URL", "INCOME_RISK_KEY"),
    Target.CLAWBOUNTIES: ("CLAWBOUNTIES_BASE_URL", "BOUNTIES_RISK_KEY"),
}
HTTP_LEDGER = {"CLAWSETTLE_LEDGER__MODE": "http", "LEDGER_BASE_URL": "http://ledger/"}


@pytest.mark.parametrize("target", OTHERS)
def test_a_target_with_address_and_key_is_configured(target: Target) -> None:
    url, key = OTHERS[target]
    settings = load(None, environ={url: f"http://{target}/api/", key: f"{target} key"}).settings
    assert target_addresses(settings) == {
        target: TargetAddress(f"http://{target}/api", Secret(f"{target} key"))
    }
    assert target_warnings(settings) == []


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("half", [0, 1])
def test_half_a_target_is_not_configured_and_what_it_lacks_is_named(
    target: Target, half: int
) -> None:
    names = OTHERS[target]
    settings = load(None, environ={names[half]: "http://here"}).settings
    assert target_addresses(settings) == {}
    (warning,) = target_warnings(settings)
    assert warning.startswith(f"targets.{target}_{('keys', 'base_url')[half]} is not set")
    assert names[1 - half] in warning
    assert warning.endswith(f"until then what is meant for {target} waits")


def test_no_target_is_configured_by_default_which_is_no_warning() -> None:
    settings = load(None, environ={}).settings
    assert target_addresses(settings) == {}
    assert target_warnings(settings) == []


def test_the_first_key_of_several_is_sent() -> None:
    environ = {"ESCROW_BASE_URL": "http://e", "CLAWSETTLE_TARGETS__ESCROW_KEYS": "new,old"}
    settings = load(None, environ=environ).settings
    assert target_addresses(settings)[Target.ESCROW].key == Secret("new")


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ({"LEDGER_RISK_KEY": "risk", "LEDGER_ADMIN_KEY": "admin"}, "risk"),
        ({"LEDGER_ADMIN_KEY": "admin"}, "admin"),
        ({"LEDGER_RISK_KEY": " ", "LEDGER_ADMIN_KEY": "admin"}, "admin"),
    ],
)
def test_a_ledger_over_http_is_asked_with_its_risk_key_or_else_its_admin_key(
    keys: dict[str, str], sent: str
) -> None:
    settings = load(None, environ=HTTP_LEDGER | keys).settings
    assert target_addresses(settings) == {
        Target.LEDGER: TargetAddress("http://ledger", Secret(sent))
    }


def test_the_embedded_ledger_has_no_address() -> None:
    environ = {"LEDGER_BASE_URL": "http://ledger", "LEDGER_RISK_KEY": "risk"}
    assert target_addresses(load(None, environ=environ).settings) == {}
