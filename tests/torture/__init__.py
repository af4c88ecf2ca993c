"""Programs that kill, cut, stall and fill what the daemon stands on, and then check the books.

``kinds`` says what is done in each kind of round; ``round`` runs one. ``make test`` runs a round or
two of each kind, ``make torture`` many.
"""
