"""Replays of the command line: commands, options, exit codes, requests, JSON output and tables."""

import ast
import contextlib
import inspect
import io
import json
import os
import re
import tarfile
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import parse_qsl, urlencode, urlsplit

from click.testing import CliRunner
from scripted_server import Answer, ScriptedServer

from tinkex_sync import __version__
from tinkex_sync.cli.formats import format_size, format_time
from tinkex_sync.cli.root import root

from .registry import no_excuse, not_understood, only, replay

Case = Dict[str, Any]
Item = Dict[str, Any]

#: Versions of click before 8.2 mix both streams by default.
STREAMS = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
NOW = datetime(2025, 6, 1, 12, tzinfo=timezone.utc)


@replay("cli_format")
def formats(case: Case, document: Case, row: Optional[int]) -> None:
    no_excuse(row)
    given = only(case["input"], "format_size", "format_timestamp_seconds_ago", "format_timestamp")
    [(what, value)] = given.items()
    if what == "format_size":
        made = format_size(value)
    elif what == "format_timestamp":
        made = format_time(value)
    else:
        made = format_time(NOW - timedelta(seconds=value), NOW)
    assert made == case["expected"]


@replay("cli")
def command(case: Case, document: Case, row: Optional[int]) -> None:
    given = only(case["input"], "argv", "stdin")
    expected = only(case["expected"], "exit_code", "stdout", "stderr", "requests", "to", "usage", "options", "commands")
    no_excuse(row, 15)
    runner = CliRunner(**STREAMS)
    with ScriptedServer() as server, empty_folder():
        stage = Stage(server, given["argv"], expected)
        with environment(stage.variables()):
            result = runner.invoke(root, given["argv"], input=given["stdin"])
        assert result.exit_code == expected["exit_code"], (result.stdout, result.stderr, result.exception)
        assert stage.seen() == expected["requests"]
        if "usage" in expected:
            check_help(result, expected)
        elif given["argv"] == ["version"]:
            assert result.stdout == expected["stdout"].replace("tinker 0.7.0", f"tinkex-sync {__version__}")
        elif expected["exit_code"] != 0:
            assert result.stdout == expected["stdout"] == ""
            check_error(result.stderr, expected["stderr"])
        elif stage.json_text is not None:
            stray = expected["stdout"][: -len(stage.json_text)]
            assert bool(stray) == (row == 15), "row 15 is about text before the JSON"
            assert result.stdout == stage.here(stage.json_text)
        else:
            check_table(result, stage, expected)
        stage.check_download()


@contextlib.contextmanager
def empty_folder() -> Iterator[None]:
    """Run in a new folder, because the commands use relative paths."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


@contextlib.contextmanager
def environment(variables: Dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.pop("TINKER_API_KEY", None)
    os.environ["TINKEX_SYNC_PROTOCOL"] = "0.7"
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def table_rows(text: str) -> List[List[str]]:
    """Return the cells of a printed table without its header."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def check_help(result: Any, expected: Case) -> None:
    text = {"stdout": result.stdout, "stderr": result.stderr}[expected["to"]]
    other = {"stdout": result.stderr, "stderr": result.stdout}[expected["to"]]
    assert other == ""
    usage = expected["usage"].replace("tinker", "tinkex-sync", 1)
    assert re.search(rf"^Usage: {re.escape(usage)}$", text, re.MULTILINE), text
    listed = re.findall(r"^  (\S.*?)(?:  .*)?$", text, re.MULTILINE)
    for option in expected["options"]:
        assert option in listed, option
    commands = text.partition("\nCommands:\n")[2]
    for name in expected["commands"]:
        assert re.search(rf"^  {re.escape(name)}\b", commands, re.MULTILINE), name


def check_error(ours: str, theirs: str) -> None:
    """Assert that an error has the recorded title and contains the recorded value. Other texts may differ."""
    assert "Error: " in ours
    for value in re.findall(r"tinker://\S+", theirs):
        if not value.startswith("tinker://run-id"):
            assert value in ours
    refused = re.search(r"^Error: (.*)$(?:\n.*)*Details: Error code", theirs, re.MULTILINE)
    if refused:
        assert ours.startswith(f"Error: {refused.group(1)}\n")
    if "TINKER_API_KEY" in theirs:
        assert "TINKER_API_KEY" in ours


def check_table(result: Any, stage: "Stage", expected: Case) -> None:
    """Assert the title and the cells of a table. Output that is not a table may differ."""
    recorded = stage.here(expected["stdout"])
    if stage.rows:
        assert table_rows(result.stdout) == table_rows(recorded)
        before = recorded.partition("┏")[0].strip().splitlines()
        assert result.stdout.partition("┏")[0].strip() == before[-1].strip()
        return
    if "┏" in recorded:
        assert "┏" in result.stdout
        assert result.stdout.partition("┏")[0].strip() == recorded.partition("┏")[0].strip()
        return
    assert result.stdout == "" or recorded
    for value in re.findall(r"tinker://\S+", recorded):
        assert value in result.stdout + result.stderr


class Stage:
    """A server with the objects that a recorded command printed, and a working folder."""

    def __init__(self, server: ScriptedServer, argv: List[str], expected: Case) -> None:
        self._server = server
        self._argv = argv
        self._expected = expected
        stdout = expected.get("stdout", "")
        prints_json = "json" in argv and expected["exit_code"] == 0 and "{" in stdout
        #: The printed JSON, or None.
        self.json_text: Optional[str] = stdout[stdout.index("{") :] if prints_json else None
        self.rows = table_rows(stdout)
        self._target: Optional[Path] = None
        self._archive = b""
        self._prepare_folder()
        server.defaults["create_session"] = Answer(body={"session_id": "session-1"})
        self._script()

    def variables(self) -> Dict[str, str]:
        keyless = "api_key client option must be set" in self._expected.get("stderr", "")
        key = {} if keyless else {"TINKER_API_KEY": "tml-test-key"}
        return {"TINKER_BASE_URL": self._server.base_url, "COLUMNS": "140", **key}

    def here(self, text: str) -> str:
        """Return a recorded text with the working folder inserted."""
        return text.replace("<cwd>", str(Path.cwd()))

    def seen(self) -> List[str]:
        """Return the received requests in the recorded form."""
        return [
            f"{request.method} {request.path}{'?' if request.query else ''}{urlencode(request.query)}"
            for request in self._server.requests
            if request.operation != "create_session"
        ]

    # The folder

    def _prepare_folder(self) -> None:
        exists = re.search(r"Target directory already exists: (.*)", self._expected.get("stderr", ""))
        if exists:
            Path(self.here(exists.group(1))).mkdir()
        if "download" not in self._argv or self._expected["exit_code"] != 0 or "to" in self._expected:
            return
        if self.json_text is not None:
            printed = json.loads(self.here(self.json_text))
            destination, size = printed["destination"], printed.get("file_size_bytes", 10240)
        else:
            cells = dict(self.rows)  # type: ignore[arg-type]
            destination, size = self.here(cells["Extracted to"]), parsed_size(cells["Archive Size"])
        self._target = Path(destination)
        self._archive = tar_of({"new.json": b"{}"}, size)
        if "--force" in self._argv:
            self._target.mkdir(parents=True)
            self._target.joinpath("old.json").write_text("old")

    def check_download(self) -> None:
        if self._target is not None:
            assert sorted(path.name for path in self._target.iterdir()) == ["new.json"]

    # The server

    def _script(self) -> None:
        requests = self._expected["requests"]
        refusal = re.search(r"Error code: (\d+) - (.*)", self._expected.get("stderr", ""))
        for index, line in enumerate(requests):
            method, _, url = line.partition(" ")
            split = urlsplit(url)
            operation = split.path.partition("/api/v1/")[2]
            if refusal and index == len(requests) - 1:
                answer = Answer(int(refusal.group(1)), ast.literal_eval(refusal.group(2)))
            elif method != "GET":
                answer = Answer(body={})
            else:
                later = [urlsplit(other.partition(" ")[2]) for other in requests[index + 1 :]]
                following = [other for other in later if other.path == split.path]
                answer = self._answer(operation, split.query, following[0].query if following else None)
            self._server.script(operation, answer)

    def _answer(self, operation: str, query: str, following: Optional[str]) -> Answer:
        if operation.endswith("/archive"):
            return Answer(302, headers={"Location": f"{self._server.base_url}/file.tar"})
        if operation == "":
            return Answer(text=self._archive.decode())
        run = re.fullmatch(r"training_runs/([^/]+)(/checkpoints)?", operation)
        if run and run.group(2):
            # The command selects one of the checkpoints of the run.
            others = [checkpoint("run-1", "weights/other")] if "info" in self._argv else []
            return Answer(body={"checkpoints": [*others, *self._checkpoints()]})
        if run:
            return Answer(body=self._runs()[0])
        names = {"training_runs": "training_runs", "checkpoints": "checkpoints"}
        if operation not in names:
            not_understood(f"GET {operation}")
        items = self._runs() if operation == "training_runs" else self._checkpoints()
        offset = int(dict(parse_qsl(query))["offset"])
        end = int(dict(parse_qsl(following))["offset"]) if following else len(items)
        more = re.search(r"\((\d+) more not shown", self._expected["stdout"])
        total = len(items) + (int(more.group(1)) if more else 0)
        cursor = {"offset": offset, "limit": end - offset, "total_count": total}
        return Answer(body={names[operation]: items[offset:end], "cursor": cursor})

    def _checkpoints(self) -> List[Item]:
        if self._expected["exit_code"] != 0:
            return []
        if self.json_text is not None:
            printed = json.loads(self.json_text)
            return list(printed.get("checkpoints", [printed]))
        if self.rows and len(self.rows[0]) == 2:
            return [checkpoint_of(dict(self.rows))]  # type: ignore[arg-type]
        heads = ("Checkpoint ID", "Type", "Size", "Public", "Created", "Tinker Path")
        return [checkpoint_of(dict(zip(heads, row))) for row in self.rows]

    def _runs(self) -> List[Item]:
        if self.json_text is not None:
            printed = json.loads(self.json_text)
            return list(printed.get("runs", [printed]))
        if self.rows and len(self.rows[0]) == 2:
            return [run_of(self.rows)]
        heads = ("Run ID", "Base Model", "Owner", "LoRA", "Last Update", "Status")
        return [run_of(list(zip(heads, row))) for row in self.rows]


def parsed_size(text: str) -> Optional[int]:
    if text == "N/A":
        return None
    number, _, unit = text.partition(" ")
    return round(float(number) * 1024 ** ("B", "KB", "MB", "GB", "TB", "PB", "EB").index(unit))


def parsed_time(text: str) -> Optional[str]:
    """Return a time that is printed as ``text``."""
    if text == "N/A":
        return None
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return f"{text}T03:04:05Z"
    ago = re.fullmatch(r"(\d+) (minute|hour|day|week)s? ago", text)
    if ago is None and text != "just now":
        not_understood(f"the time {text!r}")
    unit = {"minute": 60, "hour": 3600, "day": 86400, "week": 604800}[ago.group(2)] if ago else 0
    passed = int(ago.group(1)) * unit + 2 if ago else 0
    return (datetime.now(timezone.utc) - timedelta(seconds=max(passed, 0))).isoformat()


def checkpoint(run: str, name: str) -> Item:
    kind = "sampler" if name.startswith("sampler") else "training"
    return {
        "checkpoint_id": name,
        "checkpoint_type": kind,
        "time": "2025-01-02T03:04:05Z",
        "tinker_path": f"tinker://{run}/{name}",
    }


def checkpoint_of(cells: Dict[str, str]) -> Item:
    return {
        "checkpoint_id": cells["Checkpoint ID"],
        "checkpoint_type": cells["Type"],
        "time": parsed_time(cells["Created"]),
        "tinker_path": cells["Tinker Path"],
        "size_bytes": parsed_size(cells.get("Size", "N/A")),
        "public": cells["Public"] == "Yes",
    }


def run_of(rows: List[Any]) -> Item:
    """Return a run from its printed rows (name, value). A row that begins with a dash belongs to the row above."""
    run: Item = {}
    last: Dict[str, Item] = {}
    metadata: Dict[str, str] = {}
    above = ""
    for name, value in rows:
        if not name.startswith("- "):
            above = name
        if name == "Run ID":
            run["training_run_id"] = value
        elif name in ("Base Model", "Owner"):
            run[{"Base Model": "base_model", "Owner": "model_owner"}[name]] = value
        elif name == "LoRA":
            rank = re.search(r"Rank (\d+)", value)
            run.update(is_lora=value != "No", lora_rank=int(rank.group(1)) if rank else None)
        elif name == "Last Update":
            run["last_request_time"] = parsed_time(value)
        elif name == "Status":
            run["corrupted"] = value == "Failed"
        elif above == "Metadata":
            metadata.update({name[2:]: value} if name != above else {})
        elif above in ("Last Training Checkpoint", "Last Sampler Checkpoint"):
            if name == above:
                last[above] = checkpoint("", value)
            elif name == "- Time":
                last[above]["time"] = parsed_time(value)
            elif name == "- Path":
                last[above]["tinker_path"] = value
            else:
                not_understood(f"row {name!r}")
        else:
            not_understood(f"row {name!r}")
    return {
        **run,
        "last_checkpoint": last.get("Last Training Checkpoint"),
        "last_sampler_checkpoint": last.get("Last Sampler Checkpoint"),
        "user_metadata": metadata or None,
    }


def tar_of(files: Dict[str, bytes], size: int) -> bytes:
    """Return a tar archive, padded with zeros to ``size`` bytes."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue().ljust(size, b"\0")[:size]
