"""``tinkex-sync train`` as a process: every format of data, Ctrl-C, kill -9, and continuation."""

import gzip
import json
import os
import pty
import shutil
import signal
import sys
import threading

import pytest
from click.testing import CliRunner
from command_runs import next_command, peak_memory

from tinkex_sync.cli.root import root
from tinkex_sync.local import Faults

STORY = "".join(f"The {n}th lamp was lit at dusk, and the keeper counted {n * 7} stairs.\n" for n in range(20))
FAST = ["--model", "tinkex/tiny", "--rank", "8", "--learning-rate", "0.01", "--context", "64", "--batch", "3"]


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    return path


def count_requests(server):
    """Return the number of requests so far, without those for the statistics."""
    return {path: counts for path, counts in server.stats()["requests"].items() if path != "/__stats"}


def read_until(process, text):
    """Read the standard error of a process up to a line that contains ``text``."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was not printed: {lines}")


def result_of(process):
    """Return the exit status, the JSON of standard output, and the rest of standard error."""
    out, err = process.communicate(timeout=60)
    return process.returncode, json.loads(out), err


ROWS = {
    "prompts.jsonl": [{"prompt": f"{n}+{n}=", "completion": f"{2 * n}."} for n in range(4)],
    "chats.jsonl": [
        {"messages": [{"role": "user", "content": f"Lamp {n}?"}, {"role": "assistant", "content": "Lit."}]}
        for n in range(4)
    ],
    "sampled.jsonl": [
        {"prompt_tokens": [65, n], "completion_tokens": [66], "logprobs": [-2.0], "advantages": 1} for n in range(4)
    ],
}


@pytest.mark.parametrize("name", ["story.txt", "prompts.jsonl", "chats.jsonl"])
def test_the_loss_falls_on_every_format(name, command, story, tmp_path):
    if name in ROWS:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\r\n" for row in ROWS[name]))
    done = command("train", name, *FAST, "--epochs", 6, "--lr-decay", "cosine", "--weight-decay", 0.01,
                   "--clip-norm", 1, "--format", "json", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    examples = -(-(len(STORY) - 1) // 64) if name == "story.txt" else 4
    assert result["steps"] == result["step"] == len(result["losses"]) == 6 * -(-examples // 3)
    assert result["losses"][-1] < 0.8 * result["losses"][0]
    assert result["checkpoint"] == f"tinker://{result['run_id']}/weights/step-{result['step']:06d}"
    assert command("checkpoint", "info", result["sampler_checkpoint"], cwd=tmp_path).returncode == 0
    assert f"step {result['steps']} of {result['steps']}  loss per token" in done.stderr
    assert "tokens/s  queue active" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "no temporary file is left"


def test_the_table_shows_a_run_with_a_loss_of_sampled_tokens(command, tmp_path):
    (tmp_path / "sampled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["sampled.jsonl"]))
    done = command("train", "sampled.jsonl", *FAST, "--loss", "ppo", "--steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Steps                │ 2 of 2" in done.stdout
    assert "/sampler_weights/step-000002-sampler" in done.stdout


def test_a_wrong_line_is_refused_before_anything_is_sent(command, server, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n{}\n')
    before = count_requests(server)
    done = command("train", "bad.jsonl", *FAST, cwd=tmp_path)
    assert count_requests(server) == before
    assert (done.returncode, done.stdout) == (1, "")
    first, second, last = done.stderr.splitlines()
    assert first.startswith("Error: bad.jsonl:2: not JSON: ")
    assert second.startswith("bad.jsonl:3: needs the keys")
    assert last == "Nothing was sent."
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a" * 99, "completion": "b"}))
    done = command("train", "long.jsonl", *FAST, "--tokenizer", "tinkex/tiny", cwd=tmp_path)
    assert done.stderr.startswith("Error: long.jsonl:1: 100 tokens are more than --context 64")
    assert count_requests(server) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "long.jsonl"]


def test_a_run_continues_after_ctrl_c_with_the_same_losses(command, story, tmp_path):
    (tmp_path / "whole").mkdir()
    shutil.copy(story, tmp_path / "whole")
    arguments = ["train", "story.txt", *FAST, "--steps", 16, "--lr-decay", "linear", "-f", "json"]
    whole = json.loads(command(*arguments, cwd=tmp_path / "whole").stdout)
    with command.start(*arguments, "--log-every", 1, cwd=tmp_path) as process:
        read_until(process, "step  3 of 16")
        process.send_signal(signal.SIGINT)
        code, first, err = result_of(process)
    assert code == 130
    assert "Ctrl-C again exits immediately" in err
    assert f"Saved after step {first['step']}. To continue: tinkex-sync train --resume story.txt.run.json" in err
    assert 3 <= first["step"] < 16
    assert first["interrupted"] is True
    assert first["losses"] == whole["losses"][: first["step"]]
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(story, tmp_path / "elsewhere")
    by_path = command("train", "story.txt", "--resume", first["checkpoint"], "-f", "json", cwd=tmp_path / "elsewhere")
    by_file = command("train", "--resume", "story.txt.run.json", "-f", "json", cwd=tmp_path)
    for done in (by_path, by_file):
        assert done.returncode == 0, done.stderr
        remainder = json.loads(done.stdout)
        assert (remainder["first_step"], remainder["step"], remainder["interrupted"]) == (first["step"], 16, False)
        assert first["losses"] + remainder["losses"] == whole["losses"]
        assert remainder["run_ids"] == [first["run_id"], remainder["run_id"]]
    again = command("train", "--resume", "story.txt.run.json", "-f", "json", cwd=tmp_path)
    assert "This run is complete" in again.stderr
    assert json.loads(again.stdout)["checkpoint"] == remainder["checkpoint"]


def test_a_killed_run_continues_from_its_last_save(command, story, tmp_path):
    arguments = ["train", "story.txt", *FAST, "--steps", 12, "-f", "json", "--log-every", 1]
    with command.start(*arguments, "--save-every", 2, cwd=tmp_path) as process:
        read_until(process, "step  4 of 12")
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
        earlier = process.stderr.read()
    written = json.loads((tmp_path / "story.txt.run.json").read_text())
    assert written["step"] >= 2
    assert written["checkpoint"].endswith(f"step-{written['step']:06d}")
    assert written["complete"] is False
    assert "12 of 12" not in earlier
    longer = command("train", "--resume", "story.txt.run.json", "--steps", 14, "-f", "json", cwd=tmp_path)
    assert longer.returncode == 0, longer.stderr
    remainder = json.loads(longer.stdout)
    whole = command("train", "story.txt", *FAST, "--steps", 14, "-f", "json", "--run-file", "other.json", cwd=tmp_path)
    assert remainder["losses"] == json.loads(whole.stdout)["losses"][written["step"] :]
    (written["checkpoint"], written["checkpoints"], written["step"]) = (None, [], 0)
    (tmp_path / "story.txt.run.json").write_text(json.dumps(written))
    restarted = command("train", "--resume", "story.txt.run.json", "--steps", 3, "-f", "json", cwd=tmp_path)
    assert "nothing was saved before, so it starts again" in restarted.stderr
    assert json.loads(restarted.stdout)["losses"] == json.loads(whole.stdout)["losses"][:3]


def test_a_pause_shows_its_reason_and_a_second_ctrl_c_exits_immediately(command, server, story, tmp_path):
    arguments = ["train", "story.txt", *FAST, "--steps", 1000, "--log-every", 1, "--save-every", 2]
    try:
        with command.start(*arguments, cwd=tmp_path) as process:
            read_until(process, "step    3 of 1000")
            faults = Faults(pause=60, pause_kind="training", pause_reason="nightly works", pause_hold=0.1)
            server.set_faults(faults)
            read_until(process, "Queue paused_capacity: nightly works")
            process.send_signal(signal.SIGINT)
            read_until(process, "Ctrl-C again exits immediately")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
    finally:
        server.set_faults(Faults())
    assert (process.returncode, out) == (130, "")
    assert "To continue: tinkex-sync train --resume story.txt.run.json" in err
    assert "Interrupted." in err
    assert "Traceback" not in err


def test_the_end_of_a_pause_is_shown(command, server, story, tmp_path):
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


def test_a_failure_prints_the_command_that_continues(command, server, story, tmp_path):
    arguments = ["train", "story.txt", *FAST, "--steps", 1000, "--log-every", 1, "--save-every", 2]
    try:
        with command.start(*arguments, cwd=tmp_path) as process:
            read_until(process, "step    3 of 1000")
            server.set_faults(Faults(fail_first={"forward_backward": [400]}))
            out, err = process.communicate(timeout=60)
    finally:
        server.set_faults(Faults())
    assert (process.returncode, out) == (1, "")
    assert "To continue: tinkex-sync train --resume story.txt.run.json" in err
    assert "Error: Invalid request" in err
    assert "never retrieved" not in err
    assert "Traceback" not in err


def test_ctrl_c_on_a_terminal_saves_on_the_embedded_server(command, story, tmp_path):
    ours, theirs = pty.openpty()
    shown = bytearray()
    seen = threading.Event()

    def watch():
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # no process has the other end open
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
        # A terminal signals all processes of the group, so the server must survive it for the save.
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


def refusal(*arguments):
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
        (["--resume", "none.json"], "cannot read none.json"),
        (["--resume", "story.txt"], "story.txt is not a run file"),
    ],
)
def test_wrong_options_are_named(arguments, reason, story, monkeypatch):
    monkeypatch.chdir(story.parent)
    assert reason in refusal(*arguments)


def test_changed_options_and_data_are_named(command, story, tmp_path, monkeypatch):
    done = command("train", "story.txt", *FAST, "--steps", 2, "--lr-decay", "linear", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    assert "story.txt.run.json already exists" in refusal("story.txt", *FAST)
    resume = ["--resume", "story.txt.run.json"]
    text = refusal(*resume, "--batch", 4, "--rank", 8, "--seed", 7, "--steps", 5)
    assert "--batch: 4 is given, the run has 3" in text
    assert "--seed: 7 is given, the run has 0" in text
    assert "--rank" not in text
    assert "the run has --steps 2, over which its learning rate falls (linear)" in text
    story.write_text(STORY + "!")
    assert "DATA: " in refusal(*resume)
    assert "has changed (SHA-256 " in refusal(*resume)


def test_standard_input_is_trained_on_and_given_again_to_continue(command, tmp_path):
    rows = json.dumps({"prompt": "a", "completion": "b"}) + "\n"
    given = ["train", "-", "--data-format", "jsonl", *FAST, "--steps", "1"]
    first = command(*given, given=rows, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = ["--resume", "stdin.run.json", "--steps", "2", "-f", "json"]
    refused = command("train", *again, cwd=tmp_path)
    assert refused.returncode == 2
    assert "The run does not contain its path" in refused.stderr
    second = command("train", "-", *again, given=rows, cwd=tmp_path)
    assert json.loads(second.stdout)["step"] == 2, second.stderr


@pytest.mark.parametrize("mark", [{"weight": 0}, {"trainable": False}])
def test_a_response_that_is_not_learned_changes_the_loss(mark, command, tmp_path):
    losses = []
    for name, keys in (("all", {}), ("one", mark)):
        responses = [{"role": "assistant", "content": "the first", **keys}, {"role": "assistant", "content": "b"}]
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"messages": responses}) + "\n")
        done = command("train", path, *FAST, "--steps", "1", "-f", "json", cwd=tmp_path)
        losses += json.loads(done.stdout)["losses"]
    assert losses[0] != losses[1]


def test_settings_of_the_loss_reach_the_server_and_wrong_ones_are_refused(command, tmp_path):
    row = {"prompt_tokens": [1, 2], "completion_tokens": [3], "logprobs": [-1.0], "advantages": [1.0]}
    data = tmp_path / "sampled.jsonl"
    data.write_text(json.dumps(row) + "\n")
    options = ["--model", "tinkex/tiny", "--rank", "2", "--loss", "ppo", "--run-file", tmp_path / "run.json"]
    refused = command("train", data, *options, "--loss-config", "beta")
    assert refused.returncode == 2 and "'beta' is not NAME=NUMBER" in refused.stderr
    unknown = command("train", data, *options, "--loss-config", "no_such_setting=1")
    assert unknown.returncode == 1 and "no_such_setting" in unknown.stderr
    (tmp_path / "run.json").unlink(missing_ok=True)
    done = command("train", data, *options, "--loss-config", "clip_low_threshold=0.9")
    assert done.returncode == 0, done.stderr


def rows_of(*numbers):
    return "".join(json.dumps({"prompt": f"{n}+{n}=", "completion": f"{2 * n}."}) + "\n" for n in numbers)


@pytest.fixture
def split_data(tmp_path):
    """Write ``data.jsonl`` and ``held.jsonl`` and return the arguments that train on one and evaluate the other."""
    (tmp_path / "data.jsonl").write_text(rows_of(*range(30)))
    (tmp_path / "held.jsonl").write_text(rows_of(*range(30, 37)))
    return ["train", "data.jsonl", *FAST, "--validation", "held.jsonl", "--eval-every", 4, "-f", "json"]


def test_a_validation_file_is_evaluated_without_a_change_of_the_weights(command, split_data, tmp_path):
    done = command(*split_data, "--steps", 10, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [entry["step"] for entry in result["evaluations"]] == [4, 8, 10]
    assert result["evaluations"][-1]["loss"] < result["evaluations"][0]["loss"]
    assert f"validation after step 10: loss per token {result['evaluations'][-1]['loss']:.4f}" in done.stderr
    assert "30 examples, 10 steps of 3, 7 examples for validation" in done.stderr
    assert json.loads((tmp_path / "data.jsonl.run.json").read_text())["evaluations"] == result["evaluations"]
    plain = command("train", "data.jsonl", *FAST, "--steps", 10, "-f", "json", "--run-file", "plain.json", cwd=tmp_path)
    assert json.loads(plain.stdout)["losses"] == result["losses"]
    assert json.loads(plain.stdout)["evaluations"] == []
    # The loss per token is that of a training step on the same examples, which is computed before it changes anything.
    step = ["train", "held.jsonl", *FAST, "--batch", 7, "--steps", 1, "--validation", "held.jsonl"]
    once = json.loads(command(*step, "--learning-rate", 1e-30, "-f", "json", cwd=tmp_path).stdout)
    assert once["evaluations"][0]["loss"] == pytest.approx(once["losses"][0], rel=1e-6)


def test_a_killed_run_continues_with_the_same_losses_and_evaluations(command, split_data, tmp_path):
    whole = json.loads(command(*split_data, "--steps", 14, "--run-file", "whole.json", cwd=tmp_path).stdout)
    with command.start(*split_data, "--steps", 14, "--save-every", 6, "--log-every", 1, cwd=tmp_path) as process:
        read_until(process, "validation after step 8")
        process.kill()
    done = command("train", "--resume", "data.jsonl.run.json", "-f", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    remainder = json.loads(done.stdout)
    assert remainder["first_step"] in (6, 12)
    assert remainder["losses"] == whole["losses"][remainder["first_step"] :]
    assert remainder["evaluations"] == whole["evaluations"]
    assert [entry["step"] for entry in whole["evaluations"]] == [4, 8, 12, 14]
    by_path = ["train", "data.jsonl", "--resume", remainder["checkpoints"][0]["path"], "--run-file", "path.json"]
    assert "Missing option '--validation'" in command(*by_path, cwd=tmp_path).stderr
    done = command(*by_path, "--validation", "held.jsonl", "-f", "json", cwd=tmp_path)
    assert json.loads(done.stdout)["evaluations"] == [entry for entry in whole["evaluations"] if entry["step"] > 6]


def test_a_wrong_validation_file_is_refused_before_anything_is_sent(command, server, split_data, tmp_path, monkeypatch):
    before = count_requests(server)
    (tmp_path / "held.jsonl").write_text(rows_of(1) + '{"prompt": 1, "completion": "a"}\n{}\n')
    done = command(*split_data, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'Error: held.jsonl:2: "prompt" must be text, not 1\nheld.jsonl:3: needs the keys' in done.stderr
    (tmp_path / "held.jsonl").write_text(json.dumps({"prompt": "a" * 99, "completion": "b"}))
    done = command(*split_data, "--tokenizer", "tinkex/tiny", cwd=tmp_path)
    assert "Error: held.jsonl:1: 100 tokens are more than --context 64" in done.stderr
    assert count_requests(server) == before
    monkeypatch.chdir(tmp_path)
    assert "must be a file" in refusal("data.jsonl", *FAST, "--validation", "-")
    assert "cannot read none.jsonl" in refusal("data.jsonl", *FAST, "--validation", "none.jsonl")
    assert "give --validation too" in refusal("data.jsonl", *FAST, "--eval-every", 2)


def test_a_changed_evaluation_is_not_the_same_run(command, split_data, tmp_path, monkeypatch):
    assert command(*split_data, "--steps", 1, cwd=tmp_path).returncode == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.jsonl").write_text(rows_of(1))
    text = refusal("--resume", "data.jsonl.run.json", "--eval-every", 5)
    assert "--eval-every: 5 is given, the run has 4" in text
    assert "--validation: " in text and "has changed (SHA-256" in text
    plain = ["train", "data.jsonl", *FAST, "--steps", 1, "--run-file", "plain.json"]
    assert command(*plain, cwd=tmp_path).returncode == 0
    assert "--validation is given, the run has none" in refusal("--resume", "plain.json", "--validation", "held.jsonl")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "counts", "limit"),
    [
        ("data.jsonl", (2_000, 8_000), 5),
        # The pieces of a text do not always reuse the memory of earlier ones.
        ("data.txt", (8_000, 16_000), 25),
    ],
)
def test_the_memory_does_not_grow_with_the_data(name, counts, limit, command, tmp_path):
    options = ["--model", "tinkex/tiny", "--rank", 2, "--steps", 1, "--batch", 1, "--context", 2048]
    peaks, sizes = [], []
    for lines in counts:
        with (tmp_path / name).open("w") as file:
            for number in range(lines):
                text = f"{number} " + "the lamp was lit at dusk " * 80
                row = json.dumps({"prompt": text, "completion": "."}) if name == "data.jsonl" else text
                file.write(row + "\n")
        run_file = ["--run-file", f"{lines}.json"]
        peaks.append(peak_memory(command.environment, tmp_path, "train", name, *options, *run_file))
        sizes.append((tmp_path / name).stat().st_size / 2**20)
    # As lists and arrays, the tokens and weights need at least 8 bytes per byte of the file.
    assert sizes[1] - sizes[0] > 11
    assert peaks[1] - peaks[0] < limit, f"{peaks} MB for {sizes} MB of data"


def test_a_compressed_file_gives_the_same_losses(command, story, tmp_path):
    (tmp_path / "story.txt.gz").write_bytes(gzip.compress(story.read_bytes()))
    (tmp_path / "rows.jsonl").write_text(rows_of(*range(9)))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    for name in ("story.txt", "rows.jsonl"):
        losses = [
            json.loads(command("train", file, *FAST, "--epochs", 2, "-f", "json", cwd=tmp_path).stdout)["losses"]
            for file in (name, f"{name}.gz")
        ]
        assert losses[0] == losses[1]


#: Losses of the version that held all examples in memory.
EARLIER = {
    "story.txt": [
        5.5685181,
        5.3094954,
        4.3599962,
        2.9660428,
        3.00743,
        2.7942561,
        2.4804469,
        2.1290994,
        2.0378994,
        1.6196234,
        1.4232068,
        1.2478739,
        1.0282015,
        0.8508388,
    ],
    "prompts.jsonl": [5.5713347, 5.3694166, 4.5103886, 2.8903728],
    "chats.jsonl": [5.5957505, 5.1064279, 3.7890968, 1.8965317],
}


@pytest.mark.parametrize("name", EARLIER)
def test_the_losses_are_those_of_earlier_versions(name, command, story, tmp_path):
    if name in ROWS:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    done = command("train", name, *FAST, "--epochs", 2, "--format", "json", cwd=tmp_path)
    assert json.loads(done.stdout)["losses"] == pytest.approx(EARLIER[name], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("story.txt", ["sample", "The 0th lamp was lit at dusk, and the keeper"]),
        ("prompts.jsonl", ["sample", "0+0="]),
        ("sampled.jsonl", ["sample", "Once upon a time"]),
        ("chats.jsonl", ["chat"]),
    ],
)
def test_a_run_ends_with_the_next_command_which_succeeds(name, words, command, story, tmp_path):
    if name in ROWS:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    tokenizer = ["--tokenizer", "tinkex/tiny"] if name == "chats.jsonl" else []
    done = command("train", name, *FAST, *tokenizer, "--steps", 1, "-f", "json", cwd=tmp_path)
    following = next_command(done.stderr)
    assert following[: len(words)] == words
    assert json.loads(done.stdout)["sampler_checkpoint"] in following
    assert tokenizer == following[-2:] or not tokenizer
    tried = command(*following, given="Hello\n", cwd=tmp_path)
    assert tried.returncode == 0, tried.stderr
    assert tried.stdout.strip()


def test_a_run_on_the_embedded_server_ends_with_the_command_of_a_server_that_stays(command, story, tmp_path):
    done = command("--base-url", "local", "train", "story.txt", *FAST, "--steps", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with command.start(*next_command(done.stderr), cwd=tmp_path) as process:
        assert "listens on" in process.stdout.readline()
        assert (tmp_path / "tinkex-data").is_dir()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
