import pytest

from clawsettle.config import Address


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("127.0.0.1:8787", "127.0.0.1", 8787, "http://127.0.0.1:8787"),
        (" localhost:0 ", "localhost", 0, "http://localhost:0"),
        ("[::1]:8787", "::1", 8787, "http://[::1]:8787"),
        ("[0:0:0:0:0:0:0:0]:65535", "::", 65535, "http://[::]:65535"),
        ("ledger.internal:80", "ledger.internal", 80, "http://ledger.internal:80"),
    ],
)
def test_host_and_port_are_parsed(text: str, host: str, port: int, url: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.url) == (host, port, url)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "8787", "localhost", ":8787", "localhost:", "localhost:65536", "localhost:-1",
        "localhost:8o", "::1:8787", "[::1]", "[::1]8787", "[nope]:1", "[127.0.0.1]:1", "a b:1",
        "http://localhost:1", "localhost:1/x", "localhost:٣",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|parts"):
        Address.parse(text)
