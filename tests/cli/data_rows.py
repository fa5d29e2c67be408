"""Rows of JSON lines for the tests of training data."""

import json

SAMPLED = {"prompt_tokens": [1, 2], "completion_tokens": [3, 4, 5], "logprobs": [-1.0, -2.5, 0], "advantages": 0.5}


def write_rows(path, *rows):
    """Write one JSON object on each line and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
