"""Generated responses to whole calls: status, headers and body of each endpoint, poll, bulk poll and archive.

A call ends in a value or in a TinkexError that pickles. Waits pass immediately, so each call has a deadline of
simulated time.
"""

import gzip
import json

import pytest
from checkpoint_archives import archive
from hostile_responses import JSON, NUMBERS, TEXTS, bodies, check, generated, report
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync.checkpoints.archive import unpack
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.http.endpoints import ENDPOINTS, OPERATIONS
from tinkex_sync.http.request import Request
from tinkex_sync.plugins.events import Source
from tinkex_sync.polling.bulk_poller import BulkPoller
from tinkex_sync.polling.poller import ServerFuture, poll

PATH_VALUES = {"run": "r", "checkpoint_path": "weights/a", "session": "s", "sampler": "s:sample:0"}
STATUSES = st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 408, 409, 410, 413, 422, 425, 429, 500, 503, 599])
HEADER_TEXT = st.text("0123456789eE+-.:/,; GMTaJn\x1b", max_size=12)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(["application/json", "application/x-protobuf", "text/html", "", ";;=", "a/b"]),
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "zstd", "br", "identity", "x"]),
        "Retry-After": HEADER_TEXT,
        "retry-after-ms": HEADER_TEXT,
        "Location": HEADER_TEXT,
        "x-deprecation-note": HEADER_TEXT,
        "x-should-retry": HEADER_TEXT,
    },
)
ERRORS = st.fixed_dictionaries(
    {},
    optional={name: st.one_of(TEXTS, JSON) for name in ("error", "category", "detail", "type", "queue_state", "code")},
)
PROGRESS = st.fixed_dictionaries(
    {"type": st.sampled_from(["try_again", "request_failed"])},
    optional={"queue_state": JSON, "queue_state_reason": JSON, "error": JSON, "category": JSON},
)
SIZES = st.fixed_dictionaries(
    {"status": st.just("complete_metadata"), "response_payload_size": st.one_of(NUMBERS, JSON)}
)


@pytest.fixture(autouse=True)
def _report(capsys):
    with report(capsys):
        yield


@pytest.fixture(scope="module")
def calls():
    """Yield a server and a session whose waits pass immediately and are limited."""
    with bare_session(SteppedClock()) as (server, session):
        yield server, session


def answers(kind):
    """Return a strategy of responses to a request whose response has this type."""
    expected = bodies(kind) if kind is not None else JSON
    texts = st.one_of(expected, ERRORS, PROGRESS, SIZES).map(lambda body: json.dumps(body).encode())
    contents = st.one_of(texts, texts.map(lambda text: text[:-1]), st.binary(max_size=40), texts.map(gzip.compress))
    return st.builds(
        lambda status, headers, content: Answer(status, headers=headers, packed=content), STATUSES, HEADERS, contents
    )


def pieces(headers):
    """Return headers that the server can send, the default content type included."""
    return {"Content-Type": "application/json", **headers}


@pytest.mark.parametrize("name", sorted(set(ENDPOINTS) - {"retrieve_futures", "session_heartbeat"}))
def test_a_generated_response_to_a_request_ends_in_a_value_or_a_typed_error(calls, name):
    server, session = calls
    row = ENDPOINTS[name]

    @generated(15)
    @given(answers(row.response_type))
    def run(answer):
        answer.headers = pieces(answer.headers)
        server.clear()
        server.defaults[row.url(**PATH_VALUES).partition("/api/v1/")[2]] = answer
        request = Request(name, {} if row.method == "POST" else None, PATH_VALUES, deadline=session.clock.time() + 60)
        check(lambda: session.call(request))

    run()


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_generated_response_to_a_poll_ends_in_a_value_or_a_typed_error(calls, name):
    server, session = calls

    @generated(30)
    @given(st.lists(answers(OPERATIONS[name].result_type), min_size=1, max_size=3))
    def run(some):
        for answer in some:
            answer.headers = pieces(answer.headers)
        server.clear()
        server.script("retrieve_future", *some[:-1])
        server.defaults["retrieve_future"] = some[-1]
        call = session.begin(Source("training", "model-1", "sess-1"), name)
        deadline = session.clock.time() + 30.0
        try:
            check(lambda: poll(session, ServerFuture("rf-1", name), call, deadline=deadline))
        finally:
            session.end(call)
        assert session.clock.time() <= deadline + 0.2

    run()


COMPLETIONS = st.fixed_dictionaries(
    {
        "completions": st.one_of(
            JSON,
            st.lists(
                st.fixed_dictionaries(
                    {
                        "state": st.one_of(st.sampled_from(["finished", "failed"]), JSON),
                        "request_id": st.one_of(st.just("req-1"), JSON),
                    },
                    optional={"response_payload_uncompressed_size": st.one_of(NUMBERS, JSON)},
                ),
                max_size=2,
            ),
        ),
        "cursor": st.one_of(NUMBERS, JSON),
    }
)


def test_a_generated_response_to_a_bulk_poll_ends_in_a_value_or_a_typed_error():
    with bare_session(ScaledClock(2000.0)) as (server, session):
        server.defaults["retrieve_futures"] = Answer(404, {"detail": "x"})

        @generated(60)
        @given(st.one_of(COMPLETIONS, JSON))
        def run(body):
            server.clear()
            server.script("retrieve_futures", Answer(text=json.dumps(body)))
            poller = BulkPoller(session, Source("sampling", "s:sample:0", "sess-1"), 0)
            call = session.begin(Source("sampling", "s:sample:0", "sess-1"), "sample")
            until = session.clock.time() + 600.0
            try:
                check(lambda: poller.wait("req-1", call, lambda: until))
            finally:
                session.end(call)

        run()


@pytest.mark.parametrize("packed", [False, True])
def test_a_mutated_archive_is_unpacked_or_refused(tmp_path, packed):
    example = archive({"adapter.bin": b"a" * 600, "more/notes.txt": b"x"}, packed=packed)
    place = st.integers(0, len(example) - 1)
    path = tmp_path / "archive"
    made = []

    @generated(100)
    @given(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6), place, st.booleans())
    def run(changes, stop, cut):
        content = bytearray(example)
        for index, value in changes:
            content[index] = value
        path.write_bytes(bytes(content[:stop] if cut else content))
        made.append(tmp_path / str(len(made)))
        check(lambda: unpack(path, made[-1], lambda count: None, 100_000))
        assert set(tmp_path.iterdir()) <= {path, *made}

    run()
