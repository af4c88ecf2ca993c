"""``python -m clawsettle``: the same program as the ``clawsettle`` command."""

from clawsettle.daemon.cli import main

if __name__ == "__main__":
    main()
