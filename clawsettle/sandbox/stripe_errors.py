"""What Stripe answers in place of a result."""

from attrs import frozen

INVALID_REQUEST = "invalid_request_error"
IDEMPOTENCY = "idempotency_error"
API = "api_error"


@frozen
class StripeError:
    """One of Stripe's errors, with the HTTP status it comes with."""

    status: int
    error_type: str
    message: str
    code: str | None = None
    param: str | None = None

    @property
    def body(self) -> dict[str, object]:
        """Return the error object; what is unset is left out, as Stripe does."""
        known = {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "type": self.error_type,
        }
        return {"error": {name: value for name, value in known.items() if value is not None}}


class Refused(Exception):
    """A call is answered with an error."""

    def __init__(self, error: StripeError) -> None:
        super().__init__(error.message)
        self.error = error


def invalid(
    message: str, *, code: str | None = None, param: str | None = None, status: int = 400
) -> Refused:
    """Return the refusal of a call that is wrong in itself, or that its objects do not allow."""
    return Refused(StripeError(status, INVALID_REQUEST, message, code, param))


def missing(kind: str, object_id: str, *, param: str = "id", status: int = 404) -> Refused:
    """Return the refusal of a call that names an object which does not exist."""
    return invalid(
        f"No such {kind}: '{object_id}'", code="resource_missing", param=param, status=status
    )
