"""Where values come from: the file, credential files, the environment and the command line.

Each function reads one source into ``{"section.key": Given}`` and appends what is wrong with that
source to ``problems``; nothing is raised, so that one run reports everything. A blank text counts
as not given in every source. Values are judged later, and only those that no later source
replaces.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from clawsettle.config.keys import EnvName, Key, key_of

_PREFIX = "CLAWSETTLE_"
_FILE_SUFFIX = "_FILE"
_DIRECTORY = "CREDENTIALS_DIRECTORY"
_TOML_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_TOML_END = " (at end of document)"


@attrs.frozen
class Given:
    """A value as it was found; ``is_text`` when its type has yet to be read from a text."""

    value: object = attrs.field(repr=False)  # it may be a secret
    origin: str
    is_text: bool


def catalogue(settings_class: type) -> dict[str, Key]:
    """List every ``section.key`` that the settings class declares, in its order. Source: new."""
    return {
        f"{section.name}.{attribute.name}": key_of(attribute)
        for section in attrs.fields(settings_class)
        for attribute in attrs.fields(section.type)
    }


def generic_name(name: str) -> str:
    """Return the environment name that every ``section.key`` has. Source: new."""
    return _PREFIX + name.upper().replace(".", "__")


def from_file(path: Path | None, known: Mapping[str, Key], problems: list[str]) -> dict[str, Given]:
    """Read a clawsettle.toml; None reads nothing. Source: new."""
    if path is None:
        return {}
    found: dict[str, Given] = {}
    sections = dict.fromkeys(name.split(".")[0] for name in known)
    for section, table in _toml(path, problems).items():
        if section not in sections:
            problems.append(
                f"{section} ({path}): unknown section; {_nearest(f'[{section}]', sections, '[{}]')}"
            )
        elif not isinstance(table, dict):
            problems.append(f"{section} ({path}): must be a section, written [{section}]")
        else:
            for key, value in table.items():
                name = f"{section}.{key}"
                if name not in known:
                    problems.append(f"{name} ({path}): unknown key; {_nearest(name, known)}")
                elif not _is_blank(value):
                    found[name] = Given(value, str(path), is_text=False)
    return found


def from_credentials(
    known: Mapping[str, Key], environ: Mapping[str, str], problems: list[str]
) -> dict[str, Given]:
    """Read the secrets' files: those in $CREDENTIALS_DIRECTORY, then those named by <NAME>_FILE.

    In both, the generic name wins over the contract names. Source: new.
    """
    directory = environ.get(_DIRECTORY, "").strip()
    listed = _names_in(directory, problems) if directory else frozenset()
    found: dict[str, Given] = {}
    for name, key in known.items():
        if not key.is_secret:
            continue
        groups = (key.env, (EnvName(generic_name(name)),))
        for group in groups:
            lower = [(env, env.name.lower()) for env in group if env.name.lower() in listed]
            files = [(env, label, Path(directory, label)) for env, label in lower]
            _add_credentials(found, name, key, files, problems)
        for group in groups:
            variables = [(env, env.name + _FILE_SUFFIX) for env in group]
            files = [
                (env, variable, Path(path))
                for env, variable in variables
                if (path := environ.get(variable, "").strip())
            ]
            _add_credentials(found, name, key, files, problems)
    return found


def from_contract_names(
    known: Mapping[str, Key], environ: Mapping[str, str], problems: list[str]
) -> dict[str, Given]:
    """Read the environment names that the contract gives to some keys.

    Source: webhook-forwarding 2; ledger-api 1.
    """
    found: dict[str, Given] = {}
    for name, key in known.items():
        present = [
            (env, f"env {env.name}", text)
            for env in key.env
            if (text := environ.get(env.name, "").strip())
        ]
        _add(found, name, key, present, problems)
    return found


def from_generic_names(
    known: Mapping[str, Key], environ: Mapping[str, str], problems: list[str]
) -> dict[str, Given]:
    """Read ``CLAWSETTLE_<SECTION>__<KEY>``; other CLAWSETTLE_ names are not ours to judge.

    Source: new.
    """
    found: dict[str, Given] = {}
    names = {generic_name(name): name for name in known}
    files = {generic_name(name) + _FILE_SUFFIX for name, key in known.items() if key.is_secret}
    for variable, text in environ.items():
        is_ours = variable.startswith(_PREFIX) and "__" in variable.removeprefix(_PREFIX)
        if not is_ours or variable in files or not text.strip():
            continue
        if variable not in names:
            problems.append(f"env {variable}: unknown key; {_nearest(variable, names)}")
            continue
        name = names[variable]
        present = [(EnvName(variable), f"env {variable}", text.strip())]
        _add(found, name, known[name], present, problems)
    return found


def from_command_line(
    overrides: Mapping[str, object], known: Mapping[str, Key], problems: list[str]
) -> dict[str, Given]:
    """Take ``section.key`` -> value; None counts as not given, a text is read like one.

    Source: new.
    """
    origin = "command line"
    found: dict[str, Given] = {}
    for name, value in overrides.items():
        if name not in known:
            problems.append(f"{name} ({origin}): unknown key; {_nearest(name, known)}")
            continue
        if value is None or _is_blank(value):
            continue
        is_listing = known[name].is_list and isinstance(value, str)
        read = str(value).split(",") if is_listing else value
        found[name] = Given(read, origin, is_text=isinstance(value, str))
    return found


def _toml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        problems.append(f"{path}: there is no such file")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read: {_reason(error)}")
    else:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            problems.append(_toml_problem(path, text, str(error)))
    return {}


def _toml_problem(path: Path, text: str, message: str) -> str:
    place = _TOML_PLACE.search(message)
    if place:
        return f"{path}: line {place[1]}, column {place[2]}: {message[: place.start()]}"
    lines = text.split("\n")
    return (
        f"{path}: line {len(lines)}, column {len(lines[-1]) + 1}: {message.removesuffix(_TOML_END)}"
    )


def _names_in(directory: str, problems: list[str]) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in Path(directory).iterdir())
    except OSError as error:
        problems.append(f"env {_DIRECTORY}: cannot list {directory}: {_reason(error)}")
        return frozenset()


def _add_credentials(
    found: dict[str, Given],
    name: str,
    key: Key,
    files: Iterable[tuple[EnvName, str, Path]],
    problems: list[str],
) -> None:
    present = []
    for env, label, path in files:
        origin = f"credential {label}"
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{name} ({origin}): cannot read {path}: {_reason(error)}")
            continue
        if not text:
            problems.append(f"{name} ({origin}): {path} holds nothing")
        elif not key.is_list and len(text.splitlines()) > 1:
            problems.append(f"{name} ({origin}): {path} must hold one line")
        else:
            # One secret a line, commas and all; a JSON array may span lines.
            texts = [text] if env.form == "json" else text.splitlines()
            shape = env if env.form == "json" else EnvName(env.name, "whole")
            present += [(shape, origin, line) for line in texts]
    _add(found, name, key, present, problems)


def _add(
    found: dict[str, Given],
    name: str,
    key: Key,
    present: Iterable[tuple[EnvName, str, str]],
    problems: list[str],
) -> None:
    """Set a key from the texts of one source; the entries of a list add up."""
    entries: list[str] = []
    origins: dict[str, None] = {}
    for env, origin, text in present:
        if not key.is_list:
            found[name] = Given(text, origin, is_text=True)
            continue
        try:
            new = list(_entries(text, env))
        except ValueError:
            problems.append(f"{name} ({origin}): must be a JSON array of non-blank strings")
            continue
        entries += new
        if new:
            origins[origin] = None
    if entries:
        found[name] = Given(entries, " + ".join(origins), is_text=True)


def _entries(text: str, env: EnvName) -> Iterator[str]:
    if env.form == "json":
        array = json.loads(text)
        if not isinstance(array, list) or not all(isinstance(e, str) and e.strip() for e in array):
            raise ValueError("not an array of non-blank strings")
        yield from array
    else:
        for entry in text.split(",") if env.form == "commas" else [text]:
            if entry.strip():
                yield entry.strip()


def _nearest(name: str, known: Iterable[str], form: str = "{}") -> str:
    candidates = [form.format(candidate) for candidate in known]
    return f"the nearest known is {difflib.get_close_matches(name, candidates, 1, 0.0)[0]}"


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _reason(error: OSError | UnicodeDecodeError) -> str:
    # Never str(error) of a decoding error: it carries bytes of the file.
    return error.strerror or "it failed" if isinstance(error, OSError) else "it is not UTF-8"
