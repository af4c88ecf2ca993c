"""What the command line makes of a daemon's HTTP answers, and of their absence."""

from collections.abc import Callable
from typing import Any

import httpx

from clawsettle.domain.errors import ProviderError


def answered(url: str, call: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the answer of ``call``. Raises: ProviderError naming ``url`` when there is none."""
    try:
        return call()
    except httpx.HTTPError as error:
        raise ProviderError(
            f"nobody answers at {url} ({type(error).__name__}): is the daemon running? "
            "`make run` starts one"
        ) from error


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the body as an object; what is none stands under ``answer``."""
    try:
        body = response.json()
    except ValueError:
        body = {"answer": response.text[:500]}
    return body if isinstance(body, dict) else {"answer": body}
