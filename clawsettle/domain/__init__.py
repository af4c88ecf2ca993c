"""Pure rules: no I/O, no clock, no framework; the standard library and attrs only."""
