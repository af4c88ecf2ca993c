"""Reading the configuration: sources are merged, then cattrs makes the frozen classes.

Later wins: default, clawsettle.toml, credential files, the environment's contract names,
``CLAWSETTLE_<SECTION>__<KEY>``, the command line. The merged mapping holds `Given` values, so
that a value is read strictly by its source: a number in the file is a number, in the environment
a text that spells one. Everything wrong is reported at once, and no message repeats a secret.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

from clawsettle.config.address import Address
from clawsettle.config.keys import KeyProblem, is_key, key_of
from clawsettle.config.secret import Secret
from clawsettle.config.settings import Settings
from clawsettle.config.sources import (
    Given,
    catalogue,
    from_command_line,
    from_contract_names,
    from_credentials,
    from_file,
    from_generic_names,
)
from clawsettle.domain.errors import ConfigError

DEFAULT_ORIGIN = "default"

_NO_OVERRIDES: Mapping[str, object] = MappingProxyType({})
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_YES = frozenset({"1", "true", "yes", "y"})


@attrs.frozen
class Loaded:
    """The settings and, for each ``section.key``, where its value came from.

    An origin is ``default``, the file's path, ``env NAME``, ``credential NAME`` or
    ``command line``; names whose list entries added up are joined by `` + ``.
    """

    settings: Settings
    origins: Mapping[str, str]


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] = _NO_OVERRIDES,
) -> Loaded:
    """Read the configuration, or report everything that is wrong with it.

    ``path`` is the clawsettle.toml to read, None for no file; ``environ`` the environment;
    ``overrides`` maps ``section.key`` to a value from the command line (None: not given).
    A secret that is missing is no problem here: see `serving_problems`.

    Raises: ConfigError with one line per problem.
    Source: webhook-forwarding 2, W21.
    """
    known = catalogue(Settings)
    problems: list[str] = []
    given = {
        **from_file(path, known, problems),
        **from_credentials(known, environ, problems),
        **from_contract_names(known, environ, problems),
        **from_generic_names(known, environ, problems),
        **from_command_line(overrides, known, problems),
    }
    origins = {name: given[name].origin if name in given else DEFAULT_ORIGIN for name in known}
    settings = _structure(given, origins, problems)
    if settings is None or problems:
        # Raised here and not where the fault was found: a chained error would carry the values.
        raise ConfigError(problems)
    return Loaded(settings, MappingProxyType(origins))


def _structure(
    given: Mapping[str, Given], origins: Mapping[str, str], problems: list[str]
) -> Settings | None:
    merged: dict[str, dict[str, Given]] = {}
    for name, value in given.items():
        section, key = name.split(".")
        merged.setdefault(section, {})[key] = value
    # A section that is absent is structured too, from nothing: its defaults must agree as well.
    try:
        return _SECTIONS.structure(merged, Settings)
    except ClassValidationError as error:
        for section, problem in _key_problems(error):
            name = f"{section}.{problem.key}"
            problems.append(f"{name} ({origins[name]}): {problem.text}")
    return None


def _key_problems(
    error: ClassValidationError, section: str = ""
) -> Iterator[tuple[str, KeyProblem]]:
    """Every key's problem in the tree of errors that cattrs collected, with its section."""
    named, unnamed = error.group_exceptions()
    for cause, name in [(c, note.name) for c, note in named] + [(c, section) for c in unnamed]:
        if isinstance(cause, ClassValidationError):
            yield from _key_problems(cause, name)
        elif isinstance(cause, KeyProblem):
            yield section, cause
        else:
            raise cause


def _section_hook(section: type) -> Callable[[Any, Any], Any]:
    """Structure one class of settings, each key through its own declaration."""
    hooks: dict[str, Any] = {
        attribute.name: override(struct_hook=_key_hook(attribute))
        for attribute in attrs.fields(section)
        if is_key(attribute)
    }
    return make_dict_structure_fn(section, _SECTIONS, **hooks)


def _key_hook(attribute: "attrs.Attribute[Any]") -> Callable[[Given, Any], Any]:
    key = key_of(attribute)

    def structure(given: Given, kind: Any) -> Any:
        value = key.clean(given.value) if isinstance(given.value, str) else given.value
        converter = _FROM_TEXT if given.is_text else _TYPED
        try:
            result = converter.structure(value, kind)
        except (TypeError, ValueError):
            raise KeyProblem(attribute.name, key.rule.refusal(given.value)) from None
        if not key.rule.allows(result):
            raise KeyProblem(attribute.name, key.rule.refusal(given.value))
        return result

    return structure


def _typed(*kinds: type) -> Callable[[object, Any], Any]:
    def structure(value: object, kind: Any) -> Any:
        # Exact types: True is an int to Python and must not be one here.
        if type(value) not in kinds:
            raise TypeError("wrong type")
        return kind(value)

    return structure


def _choice(value: object, _kind: Any) -> object:
    if not isinstance(value, str):
        raise TypeError("wrong type")
    return value


def _secret(value: object, _kind: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise TypeError("wrong type")
    return Secret(value.strip())


def _address(value: object, _kind: Any) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise TypeError("wrong type")
    return Address.parse(value)


def _number(pattern: re.Pattern[str]) -> Callable[[str, Any], Any]:
    def structure(text: str, kind: Any) -> Any:
        if pattern.fullmatch(text) is None:
            raise ValueError("not a number")
        return kind(text)

    return structure


def _list_hook(converter: Converter) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Structure a list into a tuple: blank entries and repetitions are dropped, order is kept."""

    def structure(value: object, kind: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError("wrong type")
        trimmed = [entry.strip() if isinstance(entry, str) else entry for entry in value]
        item = get_args(kind)[0]
        return tuple(dict.fromkeys(converter.structure(t, item) for t in trimmed if t != ""))

    return structure


def _is_made_from(generic: Any) -> Callable[[Any], bool]:
    def check(kind: Any) -> bool:
        origin: Any = get_origin(kind)
        return origin is generic

    return check


def _leaf_converter() -> Converter:
    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(str, _typed(str))
    converter.register_structure_hook(int, _typed(int))
    converter.register_structure_hook(float, _typed(int, float))
    converter.register_structure_hook(bool, _typed(bool))
    converter.register_structure_hook(Secret, _secret)
    converter.register_structure_hook(Address, _address)
    converter.register_structure_hook_func(_is_made_from(Literal), _choice)
    converter.register_structure_hook_func(_is_made_from(tuple), _list_hook(converter))
    return converter


_TYPED = _leaf_converter()
_FROM_TEXT = _leaf_converter()
_FROM_TEXT.register_structure_hook(int, _number(_WHOLE))
_FROM_TEXT.register_structure_hook(float, _number(_DECIMAL))
_FROM_TEXT.register_structure_hook(bool, lambda text, _kind: text.lower() in _YES)

_SECTIONS = Converter()
_SECTIONS.register_structure_hook_factory(attrs.has, _section_hook)
