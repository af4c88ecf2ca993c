"""Structured logs: one JSON object a line, or readable colours on a terminal.

Events have stable names and ids; a body, a secret or a header is never among their fields.
"""

import logging
import sys
from typing import Any, Literal, TextIO

import orjson
import structlog


def configure_logs(
    level: str, form: Literal["auto", "json", "text"], stream: TextIO | None = None
) -> None:
    """Set up logging for the process, to stdout unless another stream is given.

    ``auto`` is text on a terminal and JSON elsewhere.
    """
    stream = stream or sys.stdout
    text = form == "text" or (form == "auto" and stream.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    factory: Any
    if text:
        processors.append(
            # Plain: structlog's rich tracebacks would print local variables, and secrets with them.
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        )
        factory = structlog.PrintLoggerFactory(stream)
    else:
        processors.append(structlog.processors.format_exc_info)
        processors.append(structlog.processors.EventRenamer("event"))
        processors.append(structlog.processors.JSONRenderer(serializer=_dumps))
        factory = structlog.BytesLoggerFactory(stream.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _dumps(event: dict[str, object], **_options: object) -> bytes:
    """Render a line with its name first; what JSON has no form for is shown as text."""
    named = {"event": event.pop("event"), **event}
    return orjson.dumps(named, default=str)
