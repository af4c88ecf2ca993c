"""How a configuration key is declared: its type's rule, its environment names, how it is shown.

`settings` lists keys with these functions; the loader and the reports read what they noted.
A new key or section is therefore one declaration and nothing else. The rule serves twice: as the
attrs validator of a value made in code, and as the words of the error when a value was read.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Literal

import attrs

from clawsettle.config.address import Address
from clawsettle.config.secret import Secret

_METADATA = "clawsettle.config"
_ECHO_MAX = 80


class KeyProblem(ValueError):
    """A key's value is wrong: ``key`` within its section, ``text`` what it must be."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key} {text}")
        self.key = key
        self.text = text


@attrs.frozen
class Rule:
    """An attrs validator that can say in words what it allows, and hides what must stay hidden."""

    wanted: str
    allows: Callable[[Any], bool]
    is_hidden: bool = False

    def __call__(self, _instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        """Refuse a value made in code. Raises: KeyProblem."""
        if not self.allows(value):
            raise KeyProblem(attribute.name, self.refusal(value))

    def refusal(self, value: object) -> str:
        """Return the words that refuse ``value``; a hidden one is not repeated."""
        echo = "" if self.is_hidden else _echo(value)
        return f"must be {self.wanted}{echo}"


@attrs.frozen
class EnvName:
    """A contract name in the environment, and how a list is written there.

    ``commas``: separated by commas; ``whole``: one entry, commas and all; ``json``: a JSON array.
    """

    name: str
    form: Literal["commas", "whole", "json"] = "commas"


@attrs.frozen
class Key:
    """What the loader and the reports know of a key besides its type and default."""

    rule: Rule
    env: tuple[EnvName, ...] = ()
    clean: Callable[[str], str] = str.strip
    show: Callable[[Any], str] = str
    is_secret: bool = False
    is_list: bool = False


def is_key(attribute: "attrs.Attribute[Any]") -> bool:
    """Whether the attribute is a key; otherwise it is a section."""
    return _METADATA in attribute.metadata


def key_of(attribute: "attrs.Attribute[Any]") -> Key:
    """Return the declaration behind an attribute of a section class."""
    key: Key = attribute.metadata[_METADATA]
    return key


def whole(
    default: int, low: int, high: int, unit: str, env: str | None = None, *, or_zero: bool = False
) -> Any:
    """Declare a whole number of ``unit`` from ``low`` to ``high``, with ``or_zero`` 0 as well."""

    def is_allowed(value: object) -> bool:
        return type(value) is int and (low <= value <= high or (or_zero and value == 0))

    zero = "0, or " if or_zero else ""
    wanted = f"{zero}a whole number of {unit} from {low} to {high}"
    return _key(default, Rule(wanted, is_allowed), env=_names(env))


def seconds(default: float, low: float, high: float) -> Any:
    """Declare a number of seconds from ``low`` to ``high``, fractions allowed."""
    return _key(
        default,
        Rule(
            f"a number of seconds from {low:g} to {high:g}",
            lambda value: type(value) in {int, float} and low <= value <= high,
        ),
    )


def flag(*, default: bool, env: str | None = None) -> Any:
    """Declare a yes or no; as text, 1, true, yes and y mean yes and all else means no."""
    return _key(
        default,
        Rule("true or false", lambda value: isinstance(value, bool)),
        env=_names(env),
        show=lambda value: str(value).lower(),
    )


def choice(
    *words: str, default: str, env: str | None = None, aliases: dict[str, str] | None = None
) -> Any:
    """Declare one of ``words``, read without regard to case; ``aliases`` are other spellings."""

    def clean(text: str) -> str:
        word = text.strip().lower()
        return (aliases or {}).get(word, word)

    return _key(
        default,
        Rule(f"one of {', '.join(words)}", lambda value: value in words),
        env=_names(env),
        clean=clean,
    )


def text(
    default: str | None,
    wanted: str,
    allows: Callable[[str], bool],
    *,
    env: str | None = None,
    clean: Callable[[str], str] = str.strip,
) -> Any:
    """Declare a text for which ``allows`` holds; a default of None means it may stay unset."""

    def is_allowed(value: object) -> bool:
        if value is None:
            return default is None
        return isinstance(value, str) and allows(value)

    return _key(default, Rule(wanted, is_allowed), env=_names(env), clean=clean, show=_or_not_set)


def texts(default: tuple[str, ...], wanted: str, allows: Callable[[str], bool]) -> Any:
    """Declare a list of texts for which ``allows`` holds; only an empty default may be empty."""

    def is_allowed(value: object) -> bool:
        if not isinstance(value, tuple) or (default and not value):
            return False
        return all(isinstance(item, str) and allows(item) for item in value)

    return _key(
        default,
        Rule(wanted, is_allowed),
        show=lambda value: ", ".join(value) or "not set",
        is_list=True,
    )


def address(default: str) -> Any:
    """Declare a ``host:port`` to listen on."""
    return _key(
        Address.parse(default),
        Rule(
            "host:port with a port from 0 to 65535, such as 127.0.0.1:8787 or [::1]:8787",
            lambda value: isinstance(value, Address),
        ),
    )


def secret(env: str, wanted: str, allows: Callable[[str], bool], show: Callable[[str], str]) -> Any:
    """Declare one secret without a default; ``show`` gives what of it a report may show."""
    return _key(
        None,
        Rule(
            wanted,
            lambda value: value is None or (isinstance(value, Secret) and allows(value.reveal())),
            is_hidden=True,
        ),
        env=_names(env),
        show=lambda value: "not set" if value is None else show(value.reveal()),
        is_secret=True,
    )


def secrets(*env: EnvName) -> Any:
    """Declare a list of secrets, empty by default; entries of several names add up."""
    return _key(
        (),
        Rule(
            "a list of texts",
            lambda value: (
                isinstance(value, tuple) and all(isinstance(item, Secret) for item in value)
            ),
            is_hidden=True,
        ),
        env=env,
        show=lambda value: f"hidden ({len(value)} set)" if value else "not set",
        is_secret=True,
        is_list=True,
    )


def _key(default: object, rule: Rule, **facts: Any) -> Any:
    key = Key(rule, **facts)
    return attrs.field(default=default, validator=rule, metadata={_METADATA: key})


def _names(env: str | None) -> tuple[EnvName, ...]:
    return () if env is None else (EnvName(env),)


def _or_not_set(value: str | None) -> str:
    return "not set" if value is None else value


def _echo(value: object) -> str:
    shown = json.dumps(value, default=str)
    if re.search(r"//.*@", shown):
        return ""  # a URL with a user in it may carry a password
    return f", got {shown if len(shown) <= _ECHO_MAX else shown[:_ECHO_MAX] + '...'}"
