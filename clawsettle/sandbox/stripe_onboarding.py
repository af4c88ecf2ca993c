"""What a browser sees: the page of an account link, whose one button enables the account."""

import html

from clawsettle.sandbox.http1 import Reply, Request
from clawsettle.sandbox.stripe_state import ONBOARDING_PATH, ConnectedAccount, StripeState


def answer_onboarding(state: StripeState, request: Request) -> Reply:
    """Show the page; a POST completes the onboarding and returns to where the link says.

    An account without a link, or whose link is old, is not enabled, but sent to refresh it.
    """
    account = state.accounts.get(request.path.removeprefix(ONBOARDING_PATH))
    link = account.link if account is not None else None
    if account is None or link is None:
        return _page(404, "<p>No link leads here.</p>")
    if link.expires_at_s <= state.now_s():
        return _onward(link.refresh_url, "<p>This link has expired.</p>")
    if request.method != "POST":
        return _page(200, _form(account))
    state.enable_account(account.content["id"])
    return _onward(link.return_url, "<p>The account is enabled.</p>")


def answer_home() -> Reply:
    """Show where an onboarding leads that has nowhere else to go."""
    return _page(
        200, "<h1>Stripe sandbox</h1><p>The platform knows how the account of a link stands.</p>"
    )


def _form(account: ConnectedAccount) -> str:
    return (
        f"<h1>Onboarding of {html.escape(account.content['id'])}</h1>"
        f"<p>It asks for: {html.escape(', '.join(account.content['capabilities']))}</p>"
        '<form method="post"><button>Complete onboarding</button></form>'
    )


def _onward(url: str | None, otherwise: str) -> Reply:
    return Reply(303, b"", {"location": url}) if url else _page(200, otherwise)


def _page(status: int, body: str) -> Reply:
    page = f"<!doctype html><title>Stripe sandbox</title>{body}"
    return Reply(status, page.encode(), {"content-type": "text/html; charset=utf-8"})
