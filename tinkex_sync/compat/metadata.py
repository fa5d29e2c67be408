"""The metadata of ``tinker`` while this package is registered under that name."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Optional, Union

__all__ = ["TinkerDistribution"]


class TinkerDistribution(importlib.metadata.Distribution):
    """A distribution without files, for ``importlib.metadata.version("tinker")``."""

    def __init__(self, version: str) -> None:
        self._version = version

    def read_text(self, filename: str) -> Optional[str]:
        """Return name and version as the content of METADATA; None for other files."""
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: tinker\nVersion: {self._version}\n"

    def locate_file(self, path: Union[str, os.PathLike[str]]) -> Path:
        """Return the path of a file below this package's parent folder; the distribution lists no files."""
        return Path(__file__).parent.parent.parent / path
