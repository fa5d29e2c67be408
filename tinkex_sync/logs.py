"""Loggers of the package. Texts from servers are part of their messages, so each message is escaped to one line."""

from __future__ import annotations

import logging
import os

#: Values of the environment variable TINKER_LOG.
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
#: Characters of a message at most.
_LONGEST = 10_000


def one_line(text: str) -> str:
    r"""Return a text with control characters, line breaks and bidirectional overrides as escapes such as ``\x1b``."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        escaped = one_line(text)
        if escaped != text:
            record.msg, record.args = escaped, None
        return True


_ONE_LINE = _OneLine()


def log_to_stderr(variable: str = "TINKER_LOG") -> None:
    """Log to standard error from the level that a variable names, unless the program configures the root logger."""
    level = LEVELS.get(os.environ.get(variable, "").lower())
    if level is not None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.addFilter(lambda _: not logging.getLogger().handlers)
        logging.getLogger("tinkex_sync").addHandler(handler)
        logging.getLogger("tinkex_sync").setLevel(level)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of this name. A record of it is one line, with all control characters escaped."""
    logger = logging.getLogger(name)
    # Filters of a logger are not applied to its children, so each logger has the filter.
    logger.addFilter(_ONE_LINE)
    return logger
