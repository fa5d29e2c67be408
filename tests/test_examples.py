"""Every example runs on the embedded server and does what it shows."""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def environment(server, tmp_path):
    """The variables of a process that runs an example in ``tmp_path``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "TINKEX_"))}
    path = os.pathsep.join([str(EXAMPLES.parent), str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    return {**clean, "TINKER_BASE_URL": server.base_url, "TINKER_API_KEY": "local", "PYTHONPATH": path}


@pytest.fixture
def run(environment, tmp_path):
    """A function that runs an example and returns what it printed."""

    def start(name, *arguments):
        command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return start


def numbers(pattern, text):
    return [float(found) for found in re.findall(pattern, text)]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_has_at_most_80_lines(path):
    assert len(path.read_text().splitlines()) <= 80


def test_the_lists_have_every_example():
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert set(re.findall(r"`(\w+\.(?:py|ipynb))`", (EXAMPLES / "README.md").read_text())) == files
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    assert set(re.findall(r"\.\./examples/(\w+\.(?:py|ipynb))", page)) == files


def test_blocking_loop(run):
    assert "to be, o|r not to be, that is the" in run("blocking_loop")


def test_thread_pool(run, tmp_path):
    assert "60 prompts, 0 failed" in run("thread_pool", "60")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted(row["prompt"] for row in rows) == sorted(f"question {number}:" for number in range(60))
    assert all("answer" in row for row in rows)


def test_chat_fine_tuning_improves_on_chats_that_are_not_trained(run):
    before, after = numbers(r"(?:before|after): +([\d.]+)", run("chat_fine_tuning"))
    assert after < before / 2


def test_reinforcement_raises_the_reward(run):
    rewards = numbers(r"mean reward ([\d.]+)", run("reinforcement"))
    assert len(rewards) == 12
    assert sum(rewards[-3:]) > 3 * sum(rewards[:3]) + 0.3


def test_preferences_grow(run):
    margins = numbers(r"answers ([-\d.]+)", run("preferences"))
    assert margins == sorted(margins)
    assert margins[0] > 0


def test_distillation_approaches_the_teacher(run):
    entropies = numbers(r"teacher ([\d.]+)", run("distillation"))
    assert entropies[-1] < entropies[0] / 4


def test_the_second_run_continues_from_the_checkpoint(run):
    first, second = run("checkpoint_resume"), run("checkpoint_resume")
    assert re.findall(r"step (\d+):", first) == [str(number) for number in range(1, 11)]
    assert second.startswith("continuing after step 10")
    assert re.findall(r"step (\d+):", second) == [str(number) for number in range(11, 21)]
    assert numbers(r"loss ([\d.]+)", second)[0] < numbers(r"loss ([\d.]+)", first)[-1]


def test_observer_plugin(run):
    printed = run("observer_plugin")
    assert "3 chunks (3 datums with" in printed
    assert "learning_rate=0.001, weight_decay=0.1" in printed


def test_gevent_batch(run):
    pytest.importorskip("gevent")
    assert run("gevent_batch").startswith("200 completions")


class Process:
    """A server or worker of an example, ended with the test. ``wait_for`` waits for a text in its output."""

    def __init__(self, command, environment, directory):
        self._process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output, self._grew = "", threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            with self._grew:
                self.output += line
                self._grew.notify_all()
        with self._grew:
            self._grew.notify_all()

    def wait_for(self, pattern):
        with self._grew:
            found = self._grew.wait_for(
                lambda: re.search(pattern, self.output) or not self._reader.is_alive(), timeout=120.0
            )
        assert found, self.output
        match = re.search(pattern, self.output)
        assert match, self.output
        return match

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(30.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(30.0)
        self._process.stdout.close()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60.0) as response:
        return json.load(response)


def test_flask_app(environment, tmp_path):
    pytest.importorskip("flask")
    command = [sys.executable, "-u", "-m", "flask", "--app", str(EXAMPLES / "flask_app.py"), "run", "--port", "0"]
    with Process(command, environment, tmp_path) as process:
        address = process.wait_for(r"http://127\.0\.0\.1:\d+").group()
        assert isinstance(post(address + "/complete", {"prompt": "to be", "max_tokens": 4})["text"], str)


def test_django_view(environment, tmp_path):
    pytest.importorskip("django")
    command = [sys.executable, "-u", str(EXAMPLES / "django_view.py"), "runserver", "--noreload", "127.0.0.1:0"]
    with Process(command, environment, tmp_path) as process:
        address = process.wait_for(r"http://127\.0\.0\.1:\d+").group()
        assert isinstance(post(address + "/complete", {"prompt": "to be", "max_tokens": 4})["text"], str)


def test_celery_task(environment, tmp_path):
    pytest.importorskip("celery")
    for name in ("messages", "results"):
        (tmp_path / name).mkdir()
    options = {"data_folder_in": str(tmp_path / "messages"), "data_folder_out": str(tmp_path / "messages")}
    (tmp_path / "celery_settings.py").write_text(
        f"from celery_task import app, complete\napp.conf.update(broker_transport_options={options!r})\n"
    )
    variables = {
        **environment,
        "CELERY_BROKER_URL": "filesystem://",
        "CELERY_RESULT_BACKEND": f"file://{tmp_path / 'results'}",
    }
    worker = [sys.executable, "-m", "celery", "-A", "celery_settings", "worker", "--concurrency", "2"]
    ask = "from celery_settings import complete; print(complete.delay('to be', 4).get(timeout=100))"
    with Process([*worker, "--loglevel", "info"], variables, tmp_path) as process:
        process.wait_for(r"ready\.")
        done = subprocess.run(
            [sys.executable, "-c", ask], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr + process.output
        process.wait_for(r"complete\[[\w-]+\] succeeded")


def test_airflow_dag(environment, tmp_path):
    pytest.importorskip("airflow")
    variables = {
        **environment,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    for words in (["db", "migrate"], ["dags", "test", "fine_tune_and_complete"]):
        command = [sys.executable, "-m", "airflow", *words]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "state=success" in done.stdout + done.stderr


def test_notebook(environment, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", 4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output.text for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]
    assert printed[-1] == "to be, o|r not to be, that is the\n"
