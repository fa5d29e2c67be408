"""Errors in words: a title, and lines that say what to do."""

from __future__ import annotations

import traceback
from typing import List, Tuple

from .. import errors

__all__ = ["explain"]

_TITLES = {
    400: "Invalid request",
    401: "Authentication failed",
    403: "Permission denied",
    404: "Resource not found",
    422: "Invalid data provided",
    429: "Rate limit exceeded",
}
_REMEDIES = {
    401: "Please check your API key: set TINKER_API_KEY to a valid one.",
    403: "This API key may not do that.",
    429: "Please wait a while and try again.",
}


def explain(error: Exception) -> Tuple[str, List[str]]:
    """The title of an error, and the lines to print below it."""
    text = str(error)
    if isinstance(error, errors.APIStatusError):
        status = error.status_code
        title = _TITLES.get(
            status, f"API error (status {status})" if status < 500 else "Internal server error"
        )
        remedy = [_REMEDIES[status]] if status in _REMEDIES else []
        if status >= 500:
            remedy = ["The server has a problem; please try again later."]
        return title, [*remedy, f"Details: {text}"]
    if isinstance(error, (errors.APITimeoutError, errors.DeadlineExceeded)):
        return "Request timeout", [f"Details: {text}"]
    if isinstance(error, errors.APIConnectionError):
        return "Connection failed", [f"Details: {text}"]
    if isinstance(error, errors.ConfigError):
        return f"Configuration error: {text}", []
    if isinstance(error, (errors.MissingExtraError, errors.TinkexError, OSError, ValueError)):
        return text or type(error).__name__, []
    frames = traceback.format_exception(type(error), error, error.__traceback__)
    return f"Unexpected error occurred: {type(error).__name__}: {text}", "".join(frames).splitlines()
