"""``tinkex-sync train`` as a real process: every kind of file, Ctrl-C, kill -9, and going on after them."""

import json
import os
import pty
import shutil
import signal
import threading

import pytest
from click.testing import CliRunner

from tinkex_sync.cli.root import root
from tinkex_sync.local import Faults

STORY = "".join(
    f"The {n}th lamp was lit at dusk, and the keeper counted {n * 7} stairs.\n" for n in range(20)
)
FAST = ["--model", "tinkex/tiny", "--rank", "8", "--learning-rate", "0.01", "--context", "64", "--batch", "3"]


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    return path


def sent(server):
    """Requests so far, but for those that ask this."""
    return {path: counts for path, counts in server.stats()["requests"].items() if path != "/__stats"}


def read_until(process, text):
    """Lines of a process's stderr up to one with ``text``."""
    told = []
    for line in process.stderr:
        told.append(line)
        if text in line:
            return "".join(told)
    raise AssertionError(f"{text!r} was never told: {told}")


def result(process):
    """Exit status, the JSON on stdout, the rest of stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, json.loads(out), err


ROWS = {
    "prompts.jsonl": [{"prompt": f"{n}+{n}=", "completion": f"{2 * n}."} for n in range(4)],
    "chats.jsonl": [
        {"messages": [{"role": "user", "content": f"Lamp {n}?"}, {"role": "assistant", "content": "Lit."}]}
        for n in range(4)
    ],
    "sampled.jsonl": [
        {"prompt_tokens": [65, n], "completion_tokens": [66], "logprobs": [-2.0], "advantages": 1}
        for n in range(4)
    ],
}


@pytest.mark.parametrize("name", ["story.txt", "prompts.jsonl", "chats.jsonl"])
def test_the_loss_falls(name, command, story, tmp_path):
    if name in ROWS:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\r\n" for row in ROWS[name]))
    done = command("train", name, *FAST, "--epochs", 6, "--lr-decay", "cosine", "--weight-decay", 0.01,
                   "--clip-norm", 1, "--format", "json", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    examples = -(-(len(STORY) - 1) // 64) if name == "story.txt" else 4
    assert told["steps"] == told["step"] == len(told["losses"]) == 6 * -(-examples // 3)
    assert told["losses"][-1] < 0.8 * told["losses"][0]
    assert told["checkpoint"] == f"tinker://{told['run_id']}/weights/step-{told['step']:06d}"
    assert command("checkpoint", "info", told["sampler_checkpoint"], cwd=tmp_path).returncode == 0
    assert f"step {told['steps']} of {told['steps']}  loss per token" in done.stderr
    assert "tokens/s  queue active" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing temporary stays"


def test_a_table_and_a_loss_on_sampled_tokens(command, tmp_path):
    (tmp_path / "sampled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["sampled.jsonl"]))
    done = command("train", "sampled.jsonl", *FAST, "--loss", "ppo", "--steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Steps                │ 2 of 2" in done.stdout
    assert "/sampler_weights/step-000002-sampler" in done.stdout


def test_a_wrong_line_sends_nothing(command, server, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n{}\n')
    before = sent(server)
    done = command("train", "bad.jsonl", *FAST, cwd=tmp_path)
    assert sent(server) == before
    assert (done.returncode, done.stdout) == (1, "")
    first, second, last = done.stderr.splitlines()
    assert first.startswith("Error: bad.jsonl:2: not JSON: ")
    assert second.startswith("bad.jsonl:3: needs the keys")
    assert last == "Nothing was sent."
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a" * 99, "completion": "b"}))
    done = command("train", "long.jsonl", *FAST, "--tokenizer", "tinkex/tiny", cwd=tmp_path)
    assert done.stderr.startswith("Error: long.jsonl:1: 100 tokens are more than --context 64")
    assert sent(server) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "long.jsonl"]


def test_ctrl_c_saves_and_the_run_goes_on_as_if_nothing_had_happened(command, story, tmp_path):
    (tmp_path / "whole").mkdir()
    shutil.copy(story, tmp_path / "whole")
    arguments = ["train", "story.txt", *FAST, "--steps", 16, "--lr-decay", "linear", "-f", "json"]
    whole = json.loads(command(*arguments, cwd=tmp_path / "whole").stdout)
    with command.start(*arguments, "--log-every", 1, cwd=tmp_path) as process:
        read_until(process, "step  3 of 16")
        process.send_signal(signal.SIGINT)
        code, first, err = result(process)
    assert code == 130
    assert "Ctrl-C again leaves at once" in err
    assert f"Saved after step {first['step']}. To go on: tinkex-sync train --resume story.txt.run.json" in err
    assert 3 <= first["step"] < 16
    assert first["interrupted"] is True
    assert first["losses"] == whole["losses"][: first["step"]]
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(story, tmp_path / "elsewhere")
    by_path = command(
        "train", "story.txt", "--resume", first["checkpoint"], "-f", "json", cwd=tmp_path / "elsewhere"
    )
    by_file = command("train", "--resume", "story.txt.run.json", "-f", "json", cwd=tmp_path)
    for done in (by_path, by_file):
        assert done.returncode == 0, done.stderr
        rest = json.loads(done.stdout)
        assert (rest["first_step"], rest["step"], rest["interrupted"]) == (first["step"], 16, False)
        assert first["losses"] + rest["losses"] == whole["losses"]
        assert rest["run_ids"] == [first["run_id"], rest["run_id"]]
    again = command("train", "--resume", "story.txt.run.json", "-f", "json", cwd=tmp_path)
    assert "This run is complete" in again.stderr
    assert json.loads(again.stdout)["checkpoint"] == rest["checkpoint"]


def test_a_killed_run_goes_on_from_its_last_save(command, story, tmp_path):
    arguments = ["train", "story.txt", *FAST, "--steps", 12, "-f", "json", "--log-every", 1]
    with command.start(*arguments, "--save-every", 2, cwd=tmp_path) as process:
        read_until(process, "step  4 of 12")
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
        early = process.stderr.read()
    written = json.loads((tmp_path / "story.txt.run.json").read_text())
    assert written["step"] >= 2
    assert written["checkpoint"].endswith(f"step-{written['step']:06d}")
    assert written["complete"] is False
    assert "12 of 12" not in early
    longer = command("train", "--resume", "story.txt.run.json", "--steps", 14, "-f", "json", cwd=tmp_path)
    assert longer.returncode == 0, longer.stderr
    rest = json.loads(longer.stdout)
    whole = command(
        "train", "story.txt", *FAST, "--steps", 14, "-f", "json", "--run-file", "other.json", cwd=tmp_path
    )
    assert rest["losses"] == json.loads(whole.stdout)["losses"][written["step"] :]
    (written["checkpoint"], written["checkpoints"], written["step"]) = (None, [], 0)
    (tmp_path / "story.txt.run.json").write_text(json.dumps(written))
    anew = command("train", "--resume", "story.txt.run.json", "--steps", 3, "-f", "json", cwd=tmp_path)
    assert "nothing was saved before, so it begins anew" in anew.stderr
    assert json.loads(anew.stdout)["losses"] == json.loads(whole.stdout)["losses"][:3]


def test_a_pause_shows_its_reason_and_the_second_ctrl_c_leaves_at_once(command, server, story, tmp_path):
    arguments = ["train", "story.txt", *FAST, "--steps", 1000, "--log-every", 1, "--save-every", 2]
    try:
        with command.start(*arguments, cwd=tmp_path) as process:
            read_until(process, "step    3 of 1000")
            faults = Faults(pause=60, pause_kind="training", pause_reason="nightly works", pause_hold=0.1)
            server.set_faults(faults)
            read_until(process, "Queue paused_capacity: nightly works")
            process.send_signal(signal.SIGINT)
            read_until(process, "Ctrl-C again leaves at once")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
    finally:
        server.set_faults(Faults())
    assert (process.returncode, out) == (130, "")
    assert "To go on: tinkex-sync train --resume story.txt.run.json" in err
    assert "Interrupted." in err
    assert "Traceback" not in err


def test_a_pause_that_ends(command, server, story, tmp_path):
    faults = Faults(pause=60, pause_kind="training", pause_reason="nightly works", pause_hold=0.1)
    server.set_faults(faults)
    try:
        with command.start("train", "story.txt", *FAST, "--steps", 2, cwd=tmp_path) as process:
            read_until(process, "Queue paused_capacity: nightly works")
            server.set_faults(Faults())
            _, err = process.communicate(timeout=60)
    finally:
        server.set_faults(Faults())
    assert process.returncode == 0, err
    assert "Queue active again after" in err


def test_a_failure_says_how_to_go_on(command, server, story, tmp_path):
    arguments = ["train", "story.txt", *FAST, "--steps", 1000, "--log-every", 1, "--save-every", 2]
    try:
        with command.start(*arguments, cwd=tmp_path) as process:
            read_until(process, "step    3 of 1000")
            server.set_faults(Faults(fail_first={"forward_backward": [400]}))
            out, err = process.communicate(timeout=60)
    finally:
        server.set_faults(Faults())
    assert (process.returncode, out) == (1, "")
    assert "To go on: tinkex-sync train --resume story.txt.run.json" in err
    assert "Error: Invalid request" in err
    assert "never retrieved" not in err
    assert "Traceback" not in err


def test_on_the_embedded_server_and_on_a_terminal(command, story, tmp_path):
    ours, theirs = pty.openpty()
    shown = bytearray()
    seen = threading.Event()

    def watch():
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # nobody has it open any more
                part = b""
            if not part:
                seen.set()
                return
            shown.extend(part)
            if b"tokens/s  queue active" in shown:
                seen.set()

    watcher = threading.Thread(target=watch)
    arguments = ["--base-url", "local", "train", "story.txt", *FAST, "--steps", 1000, "-f", "json"]
    options = {"stderr": theirs, "start_new_session": True, "env": {"TERM": "xterm", "COLUMNS": "150"}}
    with command.start(*arguments, cwd=tmp_path, **options) as process:
        os.close(theirs)
        watcher.start()
        assert seen.wait(60)
        # As a terminal does it: to the server too, which must stay for the save.
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    watcher.join()
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 130, text
    assert json.loads(out)["checkpoint"]
    assert "The embedded server ends with this command" in text
    assert "finishing and saving" in text
    assert "--base-url local train --resume" in text


def refused(*arguments):
    done = CliRunner().invoke(root, ["--base-url", "http://127.0.0.1:9", "train", *map(str, arguments)])
    assert done.exit_code in (1, 2)
    return done.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument 'DATA'"),
        (["story.txt"], "Missing option '--model'"),
        ([*FAST, "story.txt", "--steps", 1, "--epochs", 1], "give one of them"),
        ([*FAST, "story.txt", "--steps", 0], "--steps"),
        ([*FAST, "story.txt", "--rank", 0], "--rank"),
        ([*FAST, "story.txt", "--learning-rate", 0], "must be above 0"),
        ([*FAST, "story.txt", "--learning-rate", "nan"], "must be finite and at least 0, not nan"),
        ([*FAST, "story.txt", "--weight-decay", -1], "must be finite and at least 0, not -1.0"),
        ([*FAST, "story.txt", "--clip-norm", "inf"], "must be finite and at least 0, not inf"),
        ([*FAST, "story.txt", "--loss", "dro"], "--loss"),
        ([*FAST, "story.txt", "--loss", "ppo"], "--loss ppo cannot be computed on text"),
        ([*FAST, "none.txt"], "cannot read none.txt"),
        (["--resume", "none.json"], "cannot read the run file none.json"),
        (["--resume", "story.txt"], "story.txt is not a run file"),
    ],
)
def test_wrong_options(arguments, reason, story, monkeypatch):
    monkeypatch.chdir(story.parent)
    assert reason in refused(*arguments)


def test_what_would_not_be_the_same_run_is_refused_by_name(command, story, tmp_path, monkeypatch):
    done = command("train", "story.txt", *FAST, "--steps", 2, "--lr-decay", "linear", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    assert "story.txt.run.json is there already" in refused("story.txt", *FAST)
    resume = ["--resume", "story.txt.run.json"]
    text = refused(*resume, "--batch", 4, "--rank", 8, "--seed", 7, "--steps", 5)
    assert "--batch: 4 is given, the run has 3" in text
    assert "--seed: 7 is given, the run has 0" in text
    assert "--rank" not in text
    assert "the run has --steps 2, over which its learning rate falls (linear)" in text
    story.write_text(STORY + "!")
    assert "DATA: " in refused(*resume)
    assert "has changed (SHA-256 " in refused(*resume)
