"""Print the frames of tinkex_sync between a public method and ``requests``.

    python benchmarks/call_frames.py

The script runs a ``sample`` and a ``train_step`` against the embedded server. For each request, it prints the thread
that sent it and the functions of the package on its stack, outermost first. With ``--page`` it writes them to
docs/architecture.md. It exits with status 1 if a stack has more than ten of these frames.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import requests
import requests.adapters

import tinkex_sync
from tinkex_sync import ServiceClient, types
from tinkex_sync.local import LocalServer

MOST_FRAMES = 10
PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- frames: written by benchmarks/call_frames.py --page -->\n", "<!-- end of frames -->\n"

_PACKAGE = Path(tinkex_sync.__file__).resolve().parent


class Sent(NamedTuple):
    """One request."""

    endpoint: str
    thread: str
    #: ``module.function`` of each frame of the package, outermost first.
    frames: List[str]


class RecordingAdapter(requests.adapters.HTTPAdapter):
    """Notes the stack of each request before it sends it."""

    def __init__(self, sent: List[Sent]) -> None:
        super().__init__()
        self._sent = sent

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        frames = []
        for frame in traceback.extract_stack():
            path = Path(frame.filename).resolve()
            if _PACKAGE in path.parents:
                module = ".".join(path.relative_to(_PACKAGE).with_suffix("").parts)
                frames.append(f"{module}.{frame.name}")
        endpoint = request.url.partition("/api/v1/")[2]
        self._sent.append(Sent(endpoint, threading.current_thread().name, frames))
        return super().send(request, *args, **options)


def record() -> Dict[str, List[Sent]]:
    """Return the requests of a ``sample`` and of a ``train_step``, by the name of the method."""
    sent: List[Sent] = []

    def make_session() -> requests.Session:
        session = requests.Session()
        session.mount("http://", RecordingAdapter(sent))
        return session

    tokens = list(b"the quick brown fox")
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )
    found: Dict[str, List[Sent]] = {}
    with (
        LocalServer() as server,
        ServiceClient(
            base_url=server.base_url, api_key="local", load_plugins=False, session_factory=make_session
        ) as service,
    ):
        training = service.create_lora_training_client("tinkex/tiny", rank=4)
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        for name in ("sample", "train_step"):
            sent.clear()
            if name == "sample":
                sampler.sample(types.ModelInput.from_ints(tokens), 1, types.SamplingParams(max_tokens=2))
            else:
                training.train_step([datum], "cross_entropy", types.AdamParams())
            found[name] = [one for one in sent if one.endpoint != "session_heartbeat"]
    return found


def describe(found: Dict[str, List[Sent]]) -> str:
    """Return the frames of each request as text, each endpoint of a method once."""
    lines = []
    for name, sent in found.items():
        lines.append(f"{name}:")
        # Polls run in several threads, in any order: they come last, and one of them stands for all.
        ordered = sorted(sent, key=lambda one: (one.endpoint == "retrieve_future", one.frames))
        for one in {one.endpoint: one for one in ordered}.values():
            # Names of threads end in an id or a number.
            thread = re.sub(r"-[0-9a-f]+$", "-...", one.thread)
            lines.append(f"  {one.endpoint}, {len(one.frames)} frames in thread {thread}")
            lines += [f"    {frame}" for frame in one.frames]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the frames, or with ``--page`` write them to docs/architecture.md; return the exit status."""
    found = record()
    if "--page" in sys.argv:
        page = PAGE.read_text("utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}```text\n{describe(found)}```\n{END}{after}", "utf-8")
    else:
        print(describe(found), end="")
    most = max(len(one.frames) for sent in found.values() for one in sent)
    print(f"at most {most} frames; the limit is {MOST_FRAMES}")
    return int(most > MOST_FRAMES)


if __name__ == "__main__":
    sys.exit(main())
