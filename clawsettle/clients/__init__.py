"""The outside world, as this process speaks to it."""
