"""Stand-ins for outside parties, for a laptop and for tests."""
