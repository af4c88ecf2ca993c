"""Write the reference pages that repeat what the code declares.

``python docs/generate.py`` writes them, ``python docs/generate.py --check`` only tells whether
they are current: exit code 0 when they are, 1 when one is stale. The settings come from
``clawsettle.config``, their meaning from the comments of clawsettle.toml, the diagrams from the
tables of transitions in ``clawsettle.domain``.
"""

# ruff: noqa: INP001 - a script, not a package

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from clawsettle.config import Settings
from clawsettle.config.keys import EnvName, Key
from clawsettle.config.sources import catalogue, generic_name
from clawsettle.domain import forwarding, journal, settlements

DOCS = Path(__file__).resolve().parent
EXAMPLE = DOCS.parent / "clawsettle.toml"
_NOTE = "<!-- Written by docs/generate.py from the code: change the code, then run it again. -->"

_FORMS: Mapping[str, str] = {
    "commas": "separated by commas",
    "whole": "one entry",
    "json": "a JSON array",
}

_CONFIGURATION = """\
# Configuration

{note}

Every key, in the order of [`clawsettle.toml`](../../clawsettle.toml) and of
`clawsettle config check`.

## Where a value comes from

A later source wins. For a list the whole list is replaced, never merged across sources.

| # | Source | Example |
|---|---|---|
| 1 | the default | |
| 2 | the file given with `--config` | `[forwarding]` and `poll_s = 2.0` |
| 3 | secrets only: a file in `$CREDENTIALS_DIRECTORY` | `settle_admin_key` |
| 4 | secrets only: the file that `<NAME>_FILE` names | `SETTLE_ADMIN_KEY_FILE=/run/keys/settle` |
| 5 | the key's own name in the environment | `FORWARDING_RETRY_BASE_SECONDS=30` |
| 6 | `CLAWSETTLE_<SECTION>__<KEY>` in the environment | `CLAWSETTLE_FORWARDING__POLL_S=1` |
| 7 | the command line | `--bind 127.0.0.1:9000` |

- A blank text counts as not set, in every source.
- A number is strict: `15abc`, `15.9` for a whole number, or a number out of range stops the start.
- An unknown section or key stops the start. The message names the nearest known one.
- All problems are reported at once, one line each, with the key and where the value came from.
- A list is an array in the file and separated by commas in the environment, unless said otherwise.
- A credential file is called like an environment name, in lower case for
  `$CREDENTIALS_DIRECTORY`. It holds one secret a line; a JSON array may span lines.
"""

_MACHINES = """\
# State machines

{note}

The tables are the rule. The database's constraints and guarded updates are its second and third
copy. An arrow that is not drawn does not exist: such a step is refused and changes nothing.

The ledger also looks at `provider_updated_at`, where both the record and the request have one. News
that is no newer than the record is late, not wrong: a step without an arrow is then answered like a
repetition (`deduped`). So is a failure that is older than the record, arrow or not.
"""

_DIRECTIONS: Mapping[settlements.Direction, str] = {
    settlements.Direction.PAYIN: (
        "A payin is credited once when it is confirmed, even after a failed attempt, and debited"
        " once when it is reversed."
    ),
    settlements.Direction.REFUND: (
        "A refund is debited once when it is confirmed, and given back once when it is reversed."
    ),
    settlements.Direction.PAYOUT: (
        "A payout writes memos only, and one that fails after it was confirmed is reversed."
    ),
}
_MOVES: Mapping[int, str] = {1: "credit", -1: "debit", 0: "memo, moves nothing"}


def configuration() -> str:
    """Return the page of all settings."""
    meanings = _meanings(EXAMPLE.read_text(encoding="utf-8"))
    known = catalogue(Settings)
    parts = [_CONFIGURATION.format(note=_NOTE).rstrip()]
    for section in attrs.fields(Settings):
        assert section.type is not None  # noqa: S101 - every section has its class
        parts.append(f"\n## [{section.name}]\n\n{_section_sentence(section.type)}\n")
        parts.append("| Key | Default | Must be | Environment | Meaning |")
        parts.append("|---|---|---|---|---|")
        for attribute in attrs.fields(section.type):
            name = f"{section.name}.{attribute.name}"
            parts.append(_row(name, known[name], attribute.default, meanings[name]))
    return "\n".join(parts) + "\n"


def state_machines() -> str:
    """Return the page of all state machines."""
    parts = [_MACHINES.format(note=_NOTE).rstrip(), *_forwarding()]
    for direction, steps in settlements.TRANSITIONS.items():
        parts += _settlement(direction, steps)
    return "\n".join(parts) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/configuration.md": configuration,
    "reference/state-machines.md": state_machines,
}


def _section_sentence(section: type) -> str:
    first = (section.__doc__ or "").partition("\n")[0]
    sentence = first.partition("``: ")[2]
    return sentence[:1].upper() + sentence[1:]


def _row(name: str, key: Key, default: object, meaning: str) -> str:
    names = [_env(env, key) for env in key.env] + [f"`{generic_name(name)}`"]
    shown = key.show(default)
    secret = "secret; " if key.is_secret else ""
    return " | ".join(
        (
            f"| `{name.partition('.')[2]}`",
            shown if shown == "not set" else f"`{shown}`",
            secret + key.rule.wanted.replace("|", "\\|"),
            "<br>".join(names),
            f"{meaning} |",
        )
    )


def _env(env: EnvName, key: Key) -> str:
    form = f" ({_FORMS[env.form]})" if key.is_list and env.form != "commas" else ""
    return f"`{env.name}`{form}"


def _meanings(example: str) -> dict[str, str]:
    """Return each key's comment, without the range and the names that have their own columns."""
    found: dict[str, str] = {}
    section, comment = "", ""
    for line in example.splitlines():
        if line.startswith("["):
            section, comment = line.strip("[]"), ""
        elif line.startswith("#"):
            comment += line.removeprefix("#")
        elif " = " in line:
            text = re.sub(r" \([\d.]+ to \d+\)", "", " ".join(comment.split()))
            text = re.sub(r" Environment: [^.]*\.", "", text).replace("|", "\\|")
            found[f"{section}.{line.partition(' = ')[0]}"] = text
            comment = ""
        else:
            comment = ""
    return found


def _forwarding() -> Iterator[str]:
    yield "\n## A settlement on its way to the ledger\n"
    yield "A settlement is open until the ledger has it, or until only an operator can help.\n"
    yield "```mermaid\nstateDiagram-v2"
    yield f"    [*] --> {forwarding.ForwardingState.PENDING}: recorded"
    for state, steps in forwarding.TRANSITIONS.items():
        for event, to in steps.items():
            yield f"    {state} --> {to}: {event.__name__}"
    yield "```\n\n| Event | Meaning |\n|---|---|"
    events = dict.fromkeys(e for steps in forwarding.TRANSITIONS.values() for e in steps)
    for event in events:
        yield f"| `{event.__name__}` | {(event.__doc__ or '').removeprefix('Event: ')} |"


def _settlement(
    direction: settlements.Direction,
    steps: Mapping[settlements.Status | None, Mapping[settlements.Status, settlements.Step]],
) -> Iterator[str]:
    drawn = [
        (current, asked, step)
        for current, allowed in steps.items()
        for asked, step in allowed.items()
        if asked is not current
    ]
    yield f"\n## A {direction} in the ledger\n"
    yield _DIRECTIONS[direction]
    yield "An arrow names the status that is asked for, then the money event that it writes.\n"
    yield "```mermaid\nstateDiagram-v2"
    for current, asked, step in drawn:
        written = f" / {step.event}" if step.event else ""
        yield f"    {current or '[*]'} --> {step.to}: {asked}{written}"
    yield "```\n"
    yield "| From | Asked for | Becomes | Money event | `available` of the account |"
    yield "|---|---|---|---|---|"
    for current, asked, step in drawn:
        event = f"`{step.event}`" if step.event else "none"
        moves = _MOVES[journal.ACCOUNT_EFFECT[step.event]] if step.event else "unchanged"
        yield f"| {current or 'not recorded'} | {asked} | {step.to} | {event} | {moves} |"
    yield "\nThe status it already has may be asked for again: that changes nothing (`deduped`)."


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare them; return the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    stale = 0
    for name, write in PAGES.items():
        page, text = DOCS / name, write()
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        if arguments:
            print(f"docs/{name} is stale: run python docs/generate.py", file=sys.stderr)
            stale = 1
        else:
            page.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
