"""Supervised actors, their messages and mailboxes."""
