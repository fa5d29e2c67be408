"""The loop of samples: the number in flight, Ctrl-C, errors, and the order of what is written."""

import signal
from concurrent.futures import Future as StandardFuture

import pytest

from tinkex_sync import errors
from tinkex_sync.cli.output import CommandError
from tinkex_sync.cli.sample.loop import SampleLoop
from tinkex_sync.cli.sample.prompts import Prompt


class Future(StandardFuture):
    is_abandoned = False

    def abandon(self):
        self.is_abandoned = True


class Response:
    sequences = ()


class Sampler:
    """Finishes each future when the test sets its result, or immediately with the given results."""

    logprobs = False

    def __init__(self, results=None):
        self.futures, self.results = [], results

    def texts(self, prompt, response):
        return []

    def submit(self, prompt):
        if prompt.content == "refused":
            raise ValueError("the prompt is empty")
        future = Future()
        self.futures.append(future)
        if self.results is not None:
            result = self.results.pop(0) if self.results else Response()
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        return future


class Responses:
    def __init__(self, answered=(), fails_at=None):
        self.lines, self._answered, self._fails_at = [], set(answered), fails_at
        self.is_writable = True

    def has(self, index):
        return index in self._answered

    def write(self, line):
        if len(self.lines) == self._fails_at:
            self.is_writable = False
            raise CommandError("cannot write")
        self.lines.append(line)


class Progress:
    def advance(self, failed):
        pass


def prompts(count):
    return [Prompt(index, "text", None) for index in range(count)]


def build(sampler, responses, concurrency=2, stop_on_error=False):
    return SampleLoop(sampler, responses, Progress(), concurrency, stop_on_error)


def test_prompts_with_a_response_are_not_sampled():
    responses = Responses(answered=[0, 2])
    build(Sampler([]), responses).run(prompts(4))
    assert [line["index"] for line in responses.lines] == [1, 3]


def test_the_number_in_flight_is_bounded():
    sampler = Sampler()
    started = []

    def source():
        for prompt in prompts(5):
            in_flight = [future for future in sampler.futures if not future.done()]
            if len(in_flight) == 2:
                in_flight[0].set_result(Response())
            started.append(len([future for future in sampler.futures if not future.done()]))
            yield prompt
        for future in sampler.futures:
            if not future.done():
                future.set_result(Response())

    build(sampler, Responses()).run(source())
    assert max(started) <= 2


def test_a_failed_prompt_is_written_and_counted():
    failure = errors.status_error(400, body={"detail": "too odd"}, headers={})
    responses = Responses()
    loop = build(Sampler([failure]), responses)
    loop.run([*prompts(2), Prompt(2, "refused", "x")])
    assert loop.failed == 2
    by_index = {line["index"]: line for line in responses.lines}
    assert by_index[0]["error"]["type"] == "BadRequestError"
    assert by_index[2] == {"index": 2, "id": "x", "error": {"type": "ValueError", "message": "the prompt is empty"}}
    assert by_index[1]["sequences"] == []


def test_stop_on_error_ends_at_the_first_failed_prompt():
    with pytest.raises(CommandError, match="prompt 0 failed: the prompt is empty"):
        build(Sampler([]), Responses(), stop_on_error=True).run([Prompt(0, "refused", None)])


def test_an_error_of_all_prompts_ends_the_loop_and_abandons_the_others():
    sampler = Sampler()

    def source():
        yield from prompts(2)
        sampler.futures[0].set_exception(errors.status_error(401, body=None, headers={}))
        yield Prompt(2, "text", None)

    with pytest.raises(errors.AuthenticationError):
        build(sampler, Responses()).run(source())
    assert sampler.futures[1].is_abandoned


def test_ctrl_c_writes_the_responses_that_have_arrived_first():
    sampler, responses = Sampler(), Responses()

    def source():
        yield from prompts(3)
        sampler.futures[1].set_result(Response())
        signal.raise_signal(signal.SIGINT)
        sampler.futures[2].set_result(Response())

    with pytest.raises(KeyboardInterrupt):
        build(sampler, responses, concurrency=5).run(source())
    assert [line["index"] for line in responses.lines] == [1, 2]
    assert sampler.futures[0].is_abandoned


def test_a_write_error_is_raised_and_nothing_more_is_written():
    responses = Responses(fails_at=1)
    with pytest.raises(CommandError, match="^cannot write$"):
        build(Sampler([]), responses, concurrency=5).run(prompts(4))
    assert len(responses.lines) == 1
