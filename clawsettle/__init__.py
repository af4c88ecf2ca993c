"""clawsettle: a settlement daemon that carries Stripe's money events to a ledger exactly once."""

__version__ = "0.1.0"
