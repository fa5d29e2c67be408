"""Describe errors for the user: a title, and lines with the remedy and the details."""

from __future__ import annotations

import traceback
from typing import List, Tuple

from .. import errors

__all__ = ["describe_error"]

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
    403: "This API key has no permission for this operation.",
    429: "Please wait a while and try again.",
}


def describe_error(error: Exception) -> Tuple[str, List[str]]:
    """Return the title of an error and the lines to print below it.

    Errors that this package does not know are described with a traceback.
    """
    text = str(error)
    if isinstance(error, errors.APIStatusError):
        return _describe_status(error.status_code, text)
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


def _describe_status(status: int, text: str) -> Tuple[str, List[str]]:
    details = f"Details: {text}"
    if status >= 500:
        return "Internal server error", ["The server has a problem; please try again later.", details]
    title = _TITLES.get(status, f"API error (status {status})")
    return title, [*([_REMEDIES[status]] if status in _REMEDIES else []), details]
