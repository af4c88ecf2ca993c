"""Netting runs that nobody asks for: when one is due, and the order that every daemon makes of it.

Time is cut into slots of one length. A slot has one run, whose key names the slot, so that however
many daemons order it, they order the same.
Source: new.
"""

from datetime import UTC, datetime, timedelta

import attrs

from clawsettle.domain.instants import iso_instant
from clawsettle.domain.netting_requests import (
    LIMIT_MAX,
    NettingDefaults,
    NettingRequest,
    parse_netting,
)

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


def slot_at(now: datetime, every_s: int) -> datetime:
    """Return the first instant of the slot that ``now`` is in; slots are counted from 1970 on."""
    every = timedelta(seconds=every_s)
    return _FIRST + (now - _FIRST) // every * every


def scheduled_request(slot: datetime, defaults: NettingDefaults) -> NettingRequest:
    """Return the order of a slot's run, which takes all that waits."""
    source, target = defaults.source_clearing_domain, defaults.target_clearing_domain
    body = {
        "limit": LIMIT_MAX,
        "source_clearing_domain": source,
        "target_clearing_domain": target,
    }
    key = f"netting:schedule:{source}:{target}:{iso_instant(slot)}"
    return attrs.evolve(parse_netting(key, body, defaults), is_scheduled=True)
