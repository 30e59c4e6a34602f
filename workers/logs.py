"""Log lines for machines and people: one JSON object each, on stderr, whoever wrote them."""

from __future__ import annotations

import logging.config
from typing import Any

import structlog
from rq.logutils import colorizer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, WrappedLogger

NEVER_LOGGED = frozenset({"arguments", "kwargs"})
"""Fields that RQ adds to its lines about failed jobs; they hold whole requests, images in data URIs included."""


def _arrange(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    first = {name: line.get(name) for name in ("at", "level", "event")}
    return first | {name: value for name, value in line.items() if name not in NEVER_LOGGED}


def as_dict(level: str = "INFO") -> dict[str, Any]:
    """Describe our logging in the form of `logging.config`, which gunicorn takes as `logconfig_dict`.

    Args:
        level: The least serious line that is written.

    Returns:
        The description.
    """
    # Values of local variables stay out of tracebacks: they hold tokens and images.
    traceback = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [
                    structlog.contextvars.merge_contextvars,
                    structlog.stdlib.add_log_level,
                    structlog.stdlib.add_logger_name,
                    structlog.stdlib.ExtraAdder(),
                    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
                ],
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    traceback,
                    _arrange,
                    structlog.processors.JSONRenderer(ensure_ascii=False),
                ],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "level": level}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # They write every URL they call, and a presigned URL is a password.
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
            "gunicorn.error": {"level": level, "propagate": True},
            "gunicorn.access": {"level": level, "propagate": True},
        },
    }


def configure(level: str = "INFO") -> None:
    """Send every log line of this process to stderr in our form; call it before RQ starts.

    Args:
        level: The least serious line that is written.
    """
    colorizer.notty = True  # RQ paints its words where stdout is a terminal; the escapes would end up in the JSON
    logging.config.dictConfig(as_dict(level))
    logging.captureWarnings(capture=True)
