"""Write the reference pages that repeat what the code declares.

``python docs/generate.py`` writes them, ``python docs/generate.py --check`` only tells whether
they are current: exit code 0 when they are, 1 when one is stale. The settings come from
``clawsettle.config``, their meaning from the comments of clawsettle.toml, the diagrams from the
tables of transitions in ``clawsettle.domain``, what answers mean from asking it.
"""

# ruff: noqa: INP001 - a script, not a package

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from itertools import combinations, product
from pathlib import Path
from typing import TypeVar

import attrs
import loss_answers

from clawsettle.config import Settings
from clawsettle.config.keys import EnvName, Key
from clawsettle.config.sources import catalogue, generic_name
from clawsettle.domain import (
    forwarding,
    journal,
    loss_events,
    loss_transitions,
    netting,
    netting_transitions,
    payout_events,
    payout_transitions,
    payouts,
    settlements,
)
from clawsettle.domain.providers import ProviderStatus, Sent

Status = TypeVar("Status", bound=StrEnum)
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
    parts = [_MACHINES.format(note=_NOTE).rstrip(), *_forwarding(), *_payout(), *_payout_books()]
    parts += [*_netting_run(), *_netting_entry(), *_loss_delivery(), *_loss_roll_up()]
    for direction, steps in settlements.TRANSITIONS.items():
        parts += _settlement(direction, steps)
    return "\n".join(parts) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/configuration.md": configuration,
    "reference/loss-answers.md": lambda: loss_answers.page(_NOTE),
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


def _payout() -> Iterator[str]:
    yield "\n## A payout\n"
    yield "A payout is open until it is `paid`, `failed`, `canceled` or `returned`. News of a late"
    yield "failure leads on from `paid`; nothing leads on from the other three."
    yield "An arrow names what happened. What leads nowhere is not drawn: a repetition, a step that"
    yield "came to nothing for now, or news that what is known already overrules.\n"
    yield from _machine({payouts.PayoutStatus.INITIATED: "ordered"}, payout_transitions.TRANSITIONS)


def _netting_run() -> Iterator[str]:
    transitions = netting_transitions.RUN_TRANSITIONS
    yield "\n## A netting run\n"
    yield "A run is open while it is `created`, `running` or `releasing`: a daemon works on it, or"
    yield "takes it up by itself. A `failed` one waits for somebody, or for the next slot of the"
    yield "schedule that it is from; `applied` and `released` are ends.\n"
    yield from _machine({netting.RunStatus.CREATED: "prepared"}, transitions)


def _netting_entry() -> Iterator[str]:
    transitions = netting_transitions.ENTRY_TRANSITIONS
    yield "\n## An entry of a netting run\n"
    yield "The ledger is asked for a transfer only while its entry is `applying`. Callers see an"
    yield "`unknown` one as `failed`, with `state` beside it. `applied` and `released` are ends.\n"
    yield from _machine({netting.EntryStatus.PENDING: "prepared"}, transitions)


def _loss_delivery() -> Iterator[str]:
    yield "\n## A delivery of a loss event\n"
    yield "One target is told of an event (apply), or that it is over (resolve). Callers see a"
    yield "`waiting` one as `pending` and a `dead` one as `failed`, with `state` beside it."
    yield "`forwarded` is never left. [What answers mean](loss-answers.md) says which event an"
    yield "answer is. A step back to the same state is not drawn.\n"
    births = {
        loss_events.DeliveryState.PENDING: "recorded",
        loss_events.DeliveryState.WAITING: "recorded, its target not configured",
    }
    yield from _machine(births, loss_transitions.TRANSITIONS)


def _loss_roll_up() -> Iterator[str]:
    """Return the table of what deliveries make of their event."""
    state = loss_events.DeliveryState
    yield "\n### What they come to\n"
    yield "The `status` of a loss event follows from its apply deliveries, that of a resolution"
    yield "from its resolve deliveries. What is `not_applicable` is left out: it counts as done.\n"
    kinds = {
        "`forwarded`": (state.FORWARDED,),
        "`failed`, `dead` or `canceled`": (state.FAILED, state.DEAD, state.CANCELED),
        "`pending` or `waiting`": (state.PENDING, state.WAITING),
    }
    yield f"| {' | '.join(kinds)} | `status` |\n|{'---|' * (len(kinds) + 1)}"
    for some in product((True, False), repeat=len(kinds)):
        chosen = [one for one, is_there in zip(kinds.values(), some, strict=True) if is_there]
        statuses = {
            loss_transitions.roll_up({**dict.fromkeys(states, 1), state.NOT_APPLICABLE: beside})
            for states in product(*chosen)
            for beside in (0, 1)
        }
        (status,) = statuses
        words = " | ".join("some" if is_there else "none" for is_there in some)
        yield f"| {words} | `{status}` |"


def _machine(
    births: Mapping[Status, str], transitions: Mapping[Status, Mapping[type[object], Status]]
) -> Iterator[str]:
    """Return the diagram of a table of transitions, and what its events mean."""
    yield "```mermaid\nstateDiagram-v2"
    for first, born in births.items():
        yield f"    [*] --> {first}: {born}"
    for status, steps in transitions.items():
        for to in dict.fromkeys(to for to in steps.values() if to is not status):
            events = [event.__name__ for event, leads in steps.items() if leads is to]
            yield f"    {status} --> {to}: {', '.join(events)}"
    yield "```\n\n| Event | Meaning |\n|---|---|"
    for event in dict.fromkeys(event for steps in transitions.values() for event in steps):
        meaning = " ".join((event.__doc__ or "").split())
        yield f"| `{event.__name__}` | {meaning} |"


_AT = datetime(2026, 1, 1, tzinfo=UTC)
_SENDING = payouts.Payout(
    payout_id="pout_1",
    idempotency_key="key_1",
    request_hash="",
    provider="stripe",
    account_id="acc_1",
    account_did="did:key:alice",
    connect_account_id="acct_1",
    clearing_domain="clawsettle.payouts",
    amount_minor=1,
    currency="USD",
    metadata=None,
    status=payouts.PayoutStatus.SENDING,
    keyed_at=_AT,
    created_at=_AT,
    updated_at=_AT,
    status_at=_AT,
)
_DONE: Mapping[payouts.PayoutStatus, payout_events.PayoutEvent] = {
    payouts.PayoutStatus.SENDING: payout_events.SendAnswered(Sent("po_1")),
    payouts.PayoutStatus.FINALIZING_PAID: payout_events.Finalized("evt_1"),
    payouts.PayoutStatus.FINALIZING_FAILED: payout_events.RolledBack("evt_1"),
    payouts.PayoutStatus.FINALIZING_CANCELED: payout_events.RolledBack("evt_1"),
    payouts.PayoutStatus.RETURNING: payout_events.Returned("evt_1"),
}
_PLACES: Mapping[payouts.PayoutStatus, str] = {
    payouts.PayoutStatus.SUBMITTED: "held",
    payouts.PayoutStatus.PAID: "in the clearing account",
    payouts.PayoutStatus.FAILED: "available",
    payouts.PayoutStatus.CANCELED: "available",
    payouts.PayoutStatus.RETURNED: "available",
}
_TELLING = (ProviderStatus.PAID, ProviderStatus.CANCELED, ProviderStatus.FAILED)


def _payout_books() -> Iterator[str]:
    """Return the table of where all orders of a payout's events lead."""
    yield "\n### What its events come to\n"
    yield "The provider tells of a payout in any order and any number of times, while its steps are"
    yield "under way or later. Which events there were alone decides where the amount ends."
    yield "`payout.created` and `payout.updated` change nothing of it.\n"
    yield "| Events | On the wire | The amount is | `state` |\n|---|---|---|---|"
    for count in range(len(_TELLING) + 1):
        for told in combinations(_TELLING, count):
            ends = _ends(frozenset(told))
            wires = {end.wire for end in ends}
            places = {_PLACES[end] for end in ends}
            assert len(wires) == len(places) == 1, told  # noqa: S101 - else there is no such table
            names = ", ".join(f"`payout.{status}`" for status in told) or "none of these"
            shown = {f"`{end}`" if end is not end.wire else "absent" for end in ends}
            states = " or ".join(sorted(shown, reverse=True))
            yield f"| {names} | `{wires.pop()}` | {places.pop()} | {states} |"


def _ends(told: frozenset[ProviderStatus]) -> set[payouts.PayoutStatus]:
    """Return where a payout may rest after all of this news, whatever came when and how often."""
    cases: set[tuple[payouts.Payout, frozenset[ProviderStatus]]] = {(_SENDING, frozenset())}
    waiting = list(cases)
    while waiting:
        payout, heard = waiting.pop()
        following = {(_heed(payout, status), heard | {status}) for status in told}
        if payout.status in _DONE:
            done = payout_transitions.apply(payout, _DONE[payout.status], now=_AT)
            following.add((done.payout, heard))
        waiting += following - cases
        cases |= following
    return {payout.status for payout, heard in cases if heard == told and payout.status in _PLACES}


def _heed(payout: payouts.Payout, status: ProviderStatus) -> payouts.Payout:
    if payout_transitions.is_overruled(payout, status):
        return payout
    news = payout_events.news(Sent("po_1", None, status), "the provider")
    return payout_transitions.apply(payout, news, now=_AT).payout


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
