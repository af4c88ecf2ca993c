"""The commands ``clawsettle ledger verify | export``: the books proved, here or elsewhere."""

import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import define
from cyclopts import App, Parameter

from clawsettle.daemon.reading import DatabaseUrlOption, open_for_reading, read_settings
from clawsettle.daemon.terminal import (
    DEFAULT_STATE_DIR,
    EXIT_FAILED,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    StateDirOption,
    fail,
    guarded,
    print_json,
    print_table,
    run_async,
)
from clawsettle.domain.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from clawsettle.domain.journal import Tail
    from clawsettle.domain.proof import BookItem, Note, Proof
    from clawsettle.storage.ledger_reader import LedgerReader

ledger_app = App(name="ledger")

PROGRESS_S = 1.0
_NOTE = re.compile(r"([1-9]\d{0,18}):([0-9a-f]{64})")


@ledger_app.command
def verify(
    file: Annotated[Path | None, Parameter(help="An export; else the database is read.")] = None,
    /,
    *,
    noted: Annotated[
        str | None, Parameter(help="SEQ:HASH that an earlier run told: the journal still has it.")
    ] = None,
    config: ConfigOption = None,
    database_url: DatabaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Replay the journal from its first event and compare all else in the book with it.

    Checks hashes, postings, balances, reservations and risk holds, and names what is wrong, the
    first bad row or line first. Nothing is changed, and writers are not held up. Exit code 0 only
    when all holds.
    """
    from clawsettle.domain.proof import Proof

    proof, progress = Proof(_read_note(noted)), _Progress(is_shown=not json)

    async def read_database() -> str:
        def visit(items: "Sequence[BookItem]") -> None:
            proof.take(items)
            progress.add(len(items))

        async with _open_ledger(config, database_url, state_dir) as (reader, currency):
            await reader.read_whole(visit)
        proof.finish()
        return currency

    if file is None:
        currency = run_async(read_database)
    else:
        currency = guarded(lambda: _check_file(file, proof, progress))
    progress.end()
    if json:
        print_json(_report(proof, currency))
    elif currency is not None:
        _print_report(proof, currency)
    if proof.error_count:
        more = proof.error_count - len(proof.errors)
        fail([*proof.errors, *[f"and {more} more errors"][: more > 0]], EXIT_FAILED)


@ledger_app.command
def export(
    *,
    out: Annotated[Path, Parameter(help="The file to write; its owner alone can read it.")],
    force: Annotated[
        bool, Parameter(negative="", help="Replace the file if there is one.")
    ] = False,
    config: ConfigOption = None,
    database_url: DatabaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Write the whole book, as of one instant, to a file that can be verified without a database.

    The file appears when it is complete; one that is there is kept unless `--force` is given.
    Whether the book is sound is what `clawsettle ledger verify FILE` tells.
    """
    from clawsettle.domain.journal import Tail
    from clawsettle.storage.ledger_export import open_export

    progress = _Progress(is_shown=not json)

    async def write() -> "Tail":
        shown: Sequence[BookItem] = ()

        def visit(items: "Sequence[BookItem]") -> None:
            nonlocal shown
            shown = items
            writer.write(items)
            progress.add(len(items))

        with open_export(out, replace=force) as writer:
            async with _open_ledger(config, database_url, state_dir) as (reader, currency):
                writer.begin(currency)
                await reader.read_whole(visit)
            match shown:
                case [Tail() as tail]:
                    return tail
            raise StorageError("the ledger's tail is missing: nothing was exported")

    tail = run_async(write)
    progress.end()
    if json:
        print_json({"file": str(out), "tail": _tail(tail)})
    else:
        print(f"exported {tail.seq} events to {out}\nto be noted: {_note(tail)}")


@asynccontextmanager
async def _open_ledger(
    config: Path | None, database_url: str | None, state_dir: Path
) -> "AsyncIterator[tuple[LedgerReader, str]]":
    """Open the ledger in a database for reading; yield its reader and its currency.

    Raises: ConfigError as ``open_for_reading``, and when the books are elsewhere.
    """
    from clawsettle.storage.ledger_reader import LedgerReader

    settings = read_settings(config, database_url)
    if settings.ledger.mode != "embedded":
        raise ConfigError([f"[ledger] mode is {settings.ledger.mode}: its books are elsewhere"])
    async with open_for_reading(settings, state_dir) as database:
        yield LedgerReader(database), settings.ledger.currency


def _check_file(file: Path, proof: "Proof", progress: "_Progress") -> str | None:
    from clawsettle.storage.ledger_export import check_export

    try:
        with file.open("rb") as stream:
            return check_export(stream, proof, progress.add)
    except OSError as error:
        raise ConfigError([f"{file} cannot be read: {error.strerror}"]) from error


def _read_note(text: str | None) -> "Note | None":
    from clawsettle.domain.proof import Note

    if text is None:
        return None
    found = _NOTE.fullmatch(text)
    if found is None:
        fail(["--noted is an event's number and content hash, such as 12:1f0c..."], EXIT_USAGE)
    return Note(int(found[1]), found[2])


def _note(tail: "Tail") -> str:
    return f"{tail.seq}:{tail.content_hash}"


def _report(proof: "Proof", currency: str | None) -> dict[str, Any]:
    """Return what a proof has found; amounts are digit strings in minor units, as on the wire."""
    return {
        "valid": not proof.error_count,
        "currency": currency,
        "event_count": proof.event_count,
        "trial_balance": {
            kind: {bucket: str(balance) for bucket, balance in sums.items()}
            for kind, sums in proof.trial_balance().items()
        },
        "contra_accounts": {one: str(at) for one, at in proof.contra_balances().items()},
        "owed": {one: str(amount) for one, amount in proof.owed().items()},
        "undercut": {
            one: {"held": str(held), "reserved": str(reserved)}
            for one, (held, reserved) in proof.undercut().items()
        },
        "tail": _tail(proof.tail),
        "error_count": proof.error_count,
        "errors": proof.errors,
    }


def _tail(tail: "Tail") -> dict[str, object]:
    return {
        "seq": tail.seq,
        "event_hash": tail.event_hash,
        "content_hash": tail.content_hash,
        "noted": _note(tail),
    }


def _print_report(proof: "Proof", currency: str) -> None:
    print(f"{proof.event_count} events checked; amounts in minor units of {currency}\n")
    sums = proof.trial_balance()
    buckets = list(next(iter(sums.values())))
    rows = {str(kind): [sums[kind][bucket] for bucket in buckets] for kind in sums}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    print_table(
        ("trial balance", *buckets, "total"),
        [(name, *map(str, row), str(sum(row))) for name, row in rows.items()],
    )
    lists = {
        ("contra account", "balance"): proof.contra_balances().items(),
        ("account that owes for refunds", "amount"): proof.owed().items(),
    }
    for head, entries in lists.items():
        if entries:
            print()
            print_table(head, [(one, str(amount)) for one, amount in entries])
    undercut = proof.undercut()
    if undercut:
        print("\nAn admin's move has taken held money that is reserved; this is allowed.")
        print_table(
            ("account", "held", "reserved"),
            [(one, str(held), str(reserved)) for one, (held, reserved) in undercut.items()],
        )
    print()
    print_table(("tail", ""), [(name, str(value)) for name, value in _tail(proof.tail).items()])
    if not proof.error_count:
        print("\nsound")


@define
class _Progress:
    """Tells a terminal, now and then, how many records were read so far."""

    is_shown: bool
    count: int = 0
    next_at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.is_shown = self.is_shown and sys.stderr.isatty()

    def add(self, count: int = 1) -> None:
        """Count records that were read."""
        self.count += count
        if self.is_shown and time.monotonic() >= self.next_at:
            self.next_at = time.monotonic() + PROGRESS_S
            # Whatever is said next begins where this line does.
            print(f"{self.count} records\r", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self.is_shown:
            print("\x1b[K", end="", file=sys.stderr, flush=True)
