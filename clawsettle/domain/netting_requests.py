"""What a caller may ask of netting: a run, with the ids and the hashes that follow from it.

Source: netting contract sections 2 and 3; 10 (10, 11, 13).
"""

from collections.abc import Collection, Mapping

from attrs import frozen

from clawsettle.domain.accounts import account_ref
from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError
from clawsettle.domain.fields import body_object
from clawsettle.domain.netting import Run

LIMIT_MAX = 100_000
"""How many payouts one run may take, whoever asks for it."""

CURRENCY = "USD"


@frozen
class NettingDefaults:
    """What a request need not say, and the targets that money may be moved to."""

    source_clearing_domain: str
    target_clearing_domain: str
    limit: int
    targets: Collection[str]


@frozen
class NettingRequest:
    """A validated order of a run; ``asked`` is what its sender wrote, the rest has the defaults."""

    idempotency_key: str
    currency: str
    limit: int
    source_clearing_domain: str
    target_clearing_domain: str
    asked: Mapping[str, object]
    dry_run: bool = False
    is_scheduled: bool = False

    @property
    def run_id(self) -> str:
        """Return the id that the run has, which follows from its key."""
        return f"nrun_{sha256_hex(f'nrun:{self.idempotency_key}')[:28]}"

    @property
    def request_hash(self) -> str:
        """Return the contract's hash, over the values with their defaults."""
        return sha256_hex(
            canonical_json(
                {
                    "currency": self.currency,
                    "limit": self.limit,
                    "source_clearing_domain": self.source_clearing_domain,
                    "target_clearing_domain": self.target_clearing_domain,
                }
            )
        )

    @property
    def asked_hash(self) -> str:
        """Return the hash of what the sender wrote, which no change of a default changes."""
        return sha256_hex(canonical_json(self.asked))

    def check_same(self, run: Run) -> None:
        """Check that a run under this key is the one that is asked for.

        Raises: ConflictError IDEMPOTENCY_KEY_REUSED with ``details.run_id``.
        """
        if run.request_hash == self.request_hash or run.asked_hash == self.asked_hash:
            return
        raise ConflictError(
            "the idempotency key was used for another netting run",
            code="IDEMPOTENCY_KEY_REUSED",
            details={"run_id": run.run_id},
        )

    def check_target(self, defaults: NettingDefaults) -> None:
        """Check that the configuration lets a new run move money to the target.

        Raises: CallerError INVALID_REQUEST with ``details.field``.
        """
        if self.target_clearing_domain not in defaults.targets:
            raise _bad("target_clearing_domain", "is not one of [netting] target_clearing_domains")


def parse_netting(key: str, body: object, defaults: NettingDefaults) -> NettingRequest:
    """Validate an order in the contract's order of fields; JSON null is an empty order.

    Raises: CallerError INVALID_REQUEST, with ``details`` at the first bad field;
    UNSUPPORTED_CURRENCY with ``details.currency``.
    """
    body = {} if body is None else body_object(body)
    currency = _text(body, "currency", CURRENCY).upper()
    if currency != CURRENCY:
        raise CallerError(
            "netting is in USD only", code="UNSUPPORTED_CURRENCY", details={"currency": currency}
        )
    limit = _limit(body, defaults.limit)
    source = _domain(body, "source_clearing_domain", defaults.source_clearing_domain)
    target = _domain(body, "target_clearing_domain", defaults.target_clearing_domain)
    if source == target:
        raise CallerError(
            "the clearing domains must differ",
            details={"source_clearing_domain": source, "target_clearing_domain": target},
        )
    dry_run = body.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise _bad("dry_run", "must be true or false")
    effective: dict[str, object] = {
        "currency": currency,
        "limit": limit,
        "source_clearing_domain": source,
        "target_clearing_domain": target,
    }
    asked = {name: value for name, value in effective.items() if name in body}
    return NettingRequest(key, currency, limit, source, target, asked, dry_run)


def _text(body: Mapping[str, object], name: str, default: str) -> str:
    value = body.get(name, default)
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise _bad(name, "must be a text")
    return text


def _limit(body: Mapping[str, object], default: int) -> int:
    value = body.get("limit", default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LIMIT_MAX:
        raise _bad("limit", f"must be a whole number from 1 to {LIMIT_MAX}")
    return value


def _domain(body: Mapping[str, object], name: str, default: str) -> str:
    domain = _text(body, name, default)
    if not domain.isprintable() or account_ref(f"clearing:{domain}") is None:
        raise _bad(name, "must be 1 to 255 printable characters")
    return domain


def _bad(field: str, message: str) -> CallerError:
    return CallerError(f"{field} {message}", details={"field": field})
