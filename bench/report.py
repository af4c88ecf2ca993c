"""The page of the docs that a run of all cases writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cases import BARE, QUART
from bench.measurement import Figure, Outcome

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "performance.md"
_BEGIN, _END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"


def write_page(report: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> None:
    """Put the figures of a run into the page, between its two marks."""
    page = PAGE.read_text()
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    figures = "\n\n".join(
        [
            _setting(report),
            _table(outcomes["throughput"]),
            "\n".join(_facts(outcomes)),
            "The embedded ledger, each measurement half as long:",
            _ledger_table(outcomes),
            "\n".join(_ledger_facts(outcomes)),
        ]
    )
    PAGE.write_text(f"{before}{_BEGIN}\n\n{figures}\n\n{_END}{after}")


def _setting(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    return (
        f"Measured on {report['at'][:10]}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}; {report['rounds']} rounds of "
        f"{report['seconds']:g} s, medians. Generator, daemon, PostgreSQL and stub share the cores."
    )


def _table(outcome: Outcome) -> str:
    lines = [
        "| what | at a time | requests/s | of bare | of quart | p50 ms | p99 ms | µs | µs PG |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    floors = {
        (figure.name, figure.concurrency): figure
        for figure in outcome.figures
        if figure.name in (BARE, QUART)
    }
    for figure in outcome.figures:
        ratios = [
            f"{figure.rate_ratio(floors[name, figure.concurrency]):.2f}" for name in (BARE, QUART)
        ]
        lines.append(
            f"| {figure.name} | {figure.concurrency} | {figure.rate:,.0f} | {' | '.join(ratios)} "
            f"| {figure.p50_ms:.1f} | {figure.p99_ms:.1f} | {_cpu(figure, 0)} | {_cpu(figure, 1)} |"
        )
    return "\n".join(lines)


def _ledger_table(outcomes: Mapping[str, Outcome]) -> str:
    lines = [
        "| what | at a time | operations/s | p50 ms | p99 ms | µs | µs PG |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ("ledger", "ledger_shares", "ledger_history"):
        lines += [
            f"| {figure.name} | {figure.concurrency} | {figure.rate:,.0f} "
            f"| {figure.p50_ms:.1f} | {figure.p99_ms:.1f} | {_cpu(figure, 0)} | {_cpu(figure, 1)} |"
            for figure in outcomes[name].figures
        ]
    return "\n".join(lines)


def _cpu(figure: Figure, place: int) -> str:
    cpu_us = figure.cpu_us(place)
    return "" if cpu_us is None else f"{cpu_us:.0f}"


def _facts(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return the facts of the other cases as sentences."""
    facts: dict[str, Any] = {name: outcome.facts for name, outcome in outcomes.items()}
    flood, drain, history = facts["flood"], facts["drain"], facts["history"]
    held, rss_mb = facts["open_transaction"], facts["memory"]["rss_mb"]
    return [
        "- A flood of wrongly signed requests: {} transactions of the database in 10 s; in 10 s "
        "without requests there are {}, because the daemon looks for due work.".format(
            flood["transactions_in_flood"], flood["transactions_idle"]
        ),
        "- A backlog of {:,} settlements goes into the embedded ledger at {:,.0f} rows/s.".format(
            drain["rows"], drain["rows_per_s"]
        ),
        "- With 1,000,000 processed events in the database an event costs {:.2f} times the CPU "
        "time of one in an empty database, at {:.2f} of its rate.".format(
            history["cost_ratio"], history["rate_ratio"]
        ),
        "- After a transaction was held open for {:.0f} s and {:,} events, an event costs {:.2f} "
        "times the CPU time of one without it, at {:.2f} of its rate.".format(
            held["held_s"],
            held["events_meanwhile"],
            held["cost_ratio_at_the_end"],
            held["rate_ratio_at_the_end"],
        ),
        "- Resident memory after each 20,000 of 200,000 events: {} MB.".format(
            ", ".join(map(str, rss_mb))
        ),
    ]


def _ledger_facts(outcomes: Mapping[str, Outcome]) -> list[str]:
    shares: Mapping[str, Any] = outcomes["ledger_shares"].facts
    history: Mapping[str, Any] = outcomes["ledger_history"].facts
    share = (
        "- {} cost {:.0%} of a transfer's CPU time: without them there are {:.2f} times as many "
        "transfers/s (one hot account, in process, 64 at a time)."
    )
    old = (
        "- With 1,000,000 transfers in the book a transfer {} costs {:.2f} times the CPU time of "
        "one in a new book, at {:.2f} of its rate."
    )
    return [
        share.format(what, shares[f"{part}_cost_share"], shares[f"{part}_rate_ratio"])
        for part, what in (
            ("hashes", "Both hashes of the chain, computed, kept and indexed,"),
            ("postings", "The postings of the double entry"),
        )
    ] + [
        old.format(where, history[f"{word}_cost_ratio"], history[f"{word}_rate_ratio"])
        for word, where in (("hot", "from one hot account"), ("spread", "between 10,000 accounts"))
    ]
