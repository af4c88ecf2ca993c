"""The HTTP surface: parse, ask an actor or read storage, render."""
