"""Log lines: JSON for machines, colours for a terminal. Ids, sizes and times; never prompts."""

import logging
import sys

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper, add_log_level
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor


def configure_logging(level: str) -> None:
    """Set the process's structured log up, to standard error; call once, before serving.

    `level` is a name of the standard library's levels, in any case; unknown names mean info.
    """
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            add_log_level,
            TimeStamper(fmt="iso", utc=True),
            *_renderers(pretty=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _renderers(*, pretty: bool) -> list[Processor]:
    """How a line looks. Tracebacks go without the frames' variables: those hold prompts."""
    if pretty:
        return [ConsoleRenderer(exception_formatter=plain_traceback)]
    without_locals = ExceptionDictTransformer(show_locals=False)
    return [ExceptionRenderer(without_locals), JSONRenderer()]
