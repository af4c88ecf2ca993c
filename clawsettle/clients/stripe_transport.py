"""What the Stripe SDK sends through: this house's own HTTP client, with its bounds.

Source: new; docs/adr/0013.
"""

from collections.abc import Mapping

import stripe

from clawsettle.clients.http_transport import HttpTransport, NoAnswer

# The SDK has no other switch for reporting how long the last call took.
stripe.enable_telemetry = False


class StripeTransport(stripe.HTTPClient):
    """Carries the SDK's calls to ``transport.base_url``, each once: see ``HttpTransport``.

    GET and POST, which are all that payouts need.
    """

    name = "clawsettle"

    def __init__(self, transport: HttpTransport) -> None:
        super().__init__()
        self._transport = transport

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Return body, HTTP status and headers of an answer.

        Raises: stripe.APIConnectionError, caused by a NoAnswer, when no whole answer came.
        """
        path = url.removeprefix(self._transport.base_url)
        try:
            if method == "get":
                answer = await self._transport.get(path, headers)
            else:
                answer = await self._transport.post(path, headers, (post_data or "").encode())
        except NoAnswer as error:
            raise _connection_error(error) from error
        return answer.body, answer.status, answer.headers


def _connection_error(error: NoAnswer) -> stripe.APIConnectionError:
    # Through its type, because the SDK has left this constructor without types.
    kind: type[stripe.APIConnectionError] = stripe.APIConnectionError
    return kind(error.message, http_status=error.status)
