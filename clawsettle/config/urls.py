"""The two kinds of URL in the configuration: the database's and a service's."""

from urllib.parse import parse_qsl, urlsplit

_DATABASE_SCHEMES = frozenset({"postgresql", "postgres"})
# What of a connection URL's query a report may show; anything else might be a password.
_SHOWN_PARAMETERS = frozenset({"host", "port", "user", "dbname", "sslmode", "application_name"})


def is_database_url(text: str) -> bool:
    """Whether PostgreSQL can be addressed by it: postgresql:// or postgres://. Source: new."""
    try:
        return urlsplit(text).scheme in _DATABASE_SCHEMES and "://" in text
    except ValueError:
        return False


def is_service_url(text: str) -> bool:
    """Whether it is http(s) with a host, in ASCII, and free of user, password, query and fragment.

    Source: new.
    """
    try:
        parts = urlsplit(text)
        is_port_readable = parts.port is None or parts.port > 0
    except ValueError:
        return False
    # Host and path go into a request as they stand here.
    is_plain = all("!" <= c <= "~" for c in text) and not set(text) & set("?#@\\")
    return (
        parts.scheme in {"http", "https"} and bool(parts.hostname) and is_port_readable and is_plain
    )


def without_last_slash(text: str) -> str:
    """Trim, and drop one trailing slash. Source: webhook-forwarding 2."""
    return text.strip().removesuffix("/")


def show_database_url(text: str) -> str:
    """Return the URL with its password replaced by ``hidden`` and only harmless query values kept.

    A URL whose parts cannot be told apart for certain is hidden whole. Source: new.
    """
    parts = urlsplit(text)
    rest = text.split("://", 1)[-1].removeprefix(parts.netloc)
    if "@" in rest:  # a password with an unescaped "/", "?" or "#" ends the authority early
        return "hidden (1 set)"
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, _password = login.partition(":")
    shown = f"{parts.scheme}://{user}{colon and ':hidden'}{at}{hosts}{parts.path}"
    query = "&".join(
        f"{name}={value}" for name, value in parse_qsl(parts.query) if name in _SHOWN_PARAMETERS
    )
    return f"{shown}?{query}" if query else shown
