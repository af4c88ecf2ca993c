"""Lease tokens that are drawn before their rows are written.

A lease that is taken later has its token from a sequence of the database, which is above zero.
"""

import secrets


def birth_token() -> int:
    """Return a token for a row that is leased from birth to whoever writes it.

    It is drawn at random and below zero, so that the writer knows the row for its own when the
    answer to the commit was lost.
    """
    return -1 - secrets.randbits(62)
