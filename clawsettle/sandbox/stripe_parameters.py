"""The parameters of a call, read from its form and held against the SDK's own types.

What a call may say, and what it must, is therefore written once, in ``stripe.params``; the values
of its enumerations are open there, and so are not checked here.
"""

import functools
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from stripe import RequestOptions, StripeContext

from clawsettle.sandbox.stripe_errors import Refused, invalid
from clawsettle.sandbox.stripe_objects import Json

METADATA_MAX = 50
METADATA_KEY_MAX_CHARS = 40
METADATA_VALUE_MAX_CHARS = 500

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_BOOLEANS = {"true": True, "false": False}
# The sandbox expands nothing, and says so instead of passing it over.
_NOT_SENT = frozenset({*RequestOptions.__annotations__, "expand"})


def read_parameters(form: str, kind: type) -> Json:
    """Return the parameters of a call as values of the types that ``kind``, a TypedDict, names.

    Raises: Refused with ``parameter_unknown``, ``parameter_missing`` and the like.
    """
    nested: Json = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        _put(nested, name, value)
    return _fields(kind, nested, "")


def _put(nested: Json, name: str, value: str) -> None:
    """Put ``a[b][c]=value`` where it belongs; a list's items stand under their numbers."""
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise _unknown(name)
    *outer, last = [matched[1], *re.findall(r"\[([^\[\]]*)\]", matched[2])]
    for part in outer:
        nested = nested.setdefault(part, {})
        if not isinstance(nested, dict):
            raise invalid(f"Invalid hash: {name}", param=name)
    nested[last or str(len(nested))] = value


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    # What the SDK's annotations name without importing it where they stand.
    scope = {**vars(typing), "StripeContext": StripeContext}
    hints = typing.get_type_hints(kind, localns=scope)
    return {name: hint for name, hint in hints.items() if name not in _NOT_SENT}


def _fields(kind: Any, given: object, at: str) -> Json:
    if not isinstance(given, dict):
        raise invalid("Invalid hash", param=at)
    hints = _hints(kind)
    for name in given:
        if name not in hints:
            raise _unknown(_inside(at, name))
    for name in sorted(kind.__required_keys__ - given.keys()):
        where = _inside(at, name)
        raise invalid(f"Missing required param: {where}.", code="parameter_missing", param=where)
    return {name: _value(hints[name], given[name], _inside(at, name)) for name in given}


def _value(kind: Any, given: object, at: str) -> Any:
    origin = typing.get_origin(kind)
    if _is_typed_dict(kind):
        return _fields(kind, given, at)
    if origin in {typing.Union, types.UnionType}:
        return _either(typing.get_args(kind), given, at)
    if origin is dict:
        return _metadata(given, at)
    if origin is list:
        items = given.values() if isinstance(given, dict) else ()
        return [_value(typing.get_args(kind)[0], item, f"{at}[]") for item in items]
    if not isinstance(given, str):
        raise invalid("Invalid string", param=at)
    return _scalar(kind, given, at)


def _scalar(kind: Any, given: str, at: str) -> int | bool | str:
    if kind is int:
        return _integer(given, at)
    if kind is bool and given in _BOOLEANS:
        return _BOOLEANS[given]
    if kind is bool or (_is_literal(kind) and given not in typing.get_args(kind)):
        raise invalid(f"Invalid {at}: {given}", param=at)
    if kind is str and not given:
        raise invalid(
            f"You passed an empty string for '{at}', which cannot be unset.",
            code="parameter_invalid_empty",
            param=at,
        )
    return given


def _either(kinds: Iterable[Any], given: object, at: str) -> Any:
    """Return the value as the first of the kinds that it fits; as any text in the last place."""
    fits = _is_nested if isinstance(given, dict) else _is_scalar
    refusals: list[Refused] = []
    for kind in sorted(filter(fits, kinds), key=lambda kind: kind is str):
        try:
            return _value(kind, given, at)
        except Refused as refusal:
            refusals.append(refusal)
    raise refusals[0] if refusals else invalid(f"Invalid {at}", param=at)


def _integer(given: str, at: str) -> int:
    if not _INTEGER.fullmatch(given):
        raise invalid(f"Invalid integer: {given}", code="parameter_invalid_integer", param=at)
    return int(given)


def _metadata(given: object, at: str) -> dict[str, str]:
    """Return the pairs that have a value: an empty one takes its key away."""
    if not isinstance(given, dict):
        raise invalid("Invalid hash", param=at)
    if len(given) > METADATA_MAX:
        raise invalid(f"Metadata can have up to {METADATA_MAX} keys.", param=at)
    for key, value in given.items():
        where = _inside(at, key)
        if not isinstance(value, str):
            raise invalid("Metadata values must be strings.", param=where)
        if len(key) > METADATA_KEY_MAX_CHARS:
            text = f"Metadata keys can have up to {METADATA_KEY_MAX_CHARS} characters."
            raise invalid(text, param=where)
        if len(value) > METADATA_VALUE_MAX_CHARS:
            text = f"Metadata values can have up to {METADATA_VALUE_MAX_CHARS} characters."
            raise invalid(text, param=where)
    return {key: value for key, value in given.items() if value}


def _is_nested(kind: Any) -> bool:
    return _is_typed_dict(kind) or typing.get_origin(kind) in {dict, list}


def _is_scalar(kind: Any) -> bool:
    return kind in {int, bool, str} or _is_literal(kind)


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _is_typed_dict(kind: Any) -> bool:
    # The SDK may take its TypedDict from typing_extensions, whose classes ``typing`` denies.
    return hasattr(kind, "__required_keys__")


def _inside(at: str, name: str) -> str:
    return f"{at}[{name}]" if at else name


def _unknown(name: str) -> Refused:
    return invalid(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
