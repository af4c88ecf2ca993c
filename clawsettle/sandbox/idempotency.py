"""Idempotency keys as Stripe keeps them."""

from collections.abc import Callable, Hashable

from attrs import define, frozen

from clawsettle.sandbox.stripe_errors import IDEMPOTENCY, Refused, StripeError

KEY_LIFETIME_S = 24 * 3600


@frozen
class Answer:
    """What was answered, as its bytes were."""

    status: int
    body: bytes


@define(eq=False)
class _Use:
    request: Hashable
    at_s: float
    answer: Answer | None = None


class IdempotencyKeys:
    """Keys, what each was first used for, and what was answered then.

    A key is forgotten ``KEY_LIFETIME_S`` after its first use.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._uses: dict[Hashable, _Use] = {}

    def begin(self, key: Hashable, request: Hashable) -> Answer | None:
        """Return what was answered under this key; None when the request is now under way.

        Raises: Refused when the key's first request is under way still, or was another one.
        """
        use = self._uses.get(key)
        if use is None or use.at_s + KEY_LIFETIME_S <= self._now_s():
            self._uses[key] = _Use(request, self._now_s())
            return None
        if use.request != request:
            text = "Keys for idempotent requests can only be used with their first parameters."
            raise Refused(StripeError(400, IDEMPOTENCY, text))
        if use.answer is None:
            text = "Another request that uses this idempotency key is under way."
            raise Refused(StripeError(409, IDEMPOTENCY, text, code="idempotency_key_in_use"))
        return use.answer

    def finish(self, key: Hashable, answer: Answer) -> None:
        """Keep the answer of the request that is under way."""
        self._uses[key].answer = answer
