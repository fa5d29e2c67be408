"""Operations of RestClient, those of protocol 0.38.0 included, on the embedded server."""

import logging
import urllib.request

import pytest
from scripted_server import Answer, ScriptedServer, bare_session

import tinkex_sync
from tinkex_sync import RestClient, errors
from tinkex_sync.local import Faults, LocalServer

pytest.importorskip("numpy")

SECRET = "a-secret-token"


@pytest.fixture(scope="module")
def server():
    with LocalServer(protocol="0.38") as running:
        yield running


@pytest.fixture(scope="module")
def service(server):
    with tinkex_sync.ServiceClient(base_url=server.base_url, api_key="k", protocol="auto") as client:
        yield client


@pytest.fixture(scope="module")
def training(service):
    return service.create_lora_training_client("tinkex/tiny", 4)


@pytest.fixture(scope="module")
def rest(service):
    return service.create_rest_client()


@pytest.fixture(scope="module")
def saved(training):
    return training.save_state("kept", user_metadata={"k": "v"}).path


def checkpoint(rest, path):
    (found,) = [one for one in rest.iter_user_checkpoints() if one.tinker_path == path]
    return found


def test_the_time_to_live_of_a_checkpoint_can_be_set_and_removed(rest, saved):
    assert checkpoint(rest, saved).expires_at is None
    assert checkpoint(rest, saved).user_metadata == {"k": "v"}
    rest.set_checkpoint_ttl_from_tinker_path(saved, 3600)
    assert checkpoint(rest, saved).expires_at.tzinfo is not None
    assert rest.submit_set_checkpoint_ttl_from_tinker_path(saved, None).result(30) is None
    assert checkpoint(rest, saved).expires_at is None


def test_a_session_can_be_moved_between_projects(service, rest, training, saved):
    assert rest.list_training_runs(project_id="p1").training_runs == []
    rest.assign_session_project(service.session_id, "p1")
    assert [run.training_run_id for run in rest.iter_training_runs(project_id="p1")] == [training.model_id]
    assert rest.submit_assign_session_project(service.session_id, "p2").result(30) is None
    assert rest.submit_list_training_runs(project_id="p1").result(30).training_runs == []


@pytest.mark.parametrize("scope", ["owned", "accessible", None])
def test_every_access_scope_is_accepted(service, rest, training, scope):
    assert rest.get_training_run(training.model_id, scope).training_run_id == training.model_id
    assert rest.submit_get_training_run(training.model_id, scope).result(30).is_lora
    assert rest.get_session(service.session_id, scope).training_run_ids[0] == training.model_id
    assert rest.submit_get_session(service.session_id, scope).result(30).sampler_ids == []
    assert service.session_id in rest.list_sessions(access_scope=scope).sessions
    assert service.session_id in rest.submit_list_sessions(access_scope=scope).result(30).sessions
    assert service.session_id in list(rest.iter_sessions(access_scope=scope))
    assert rest.list_training_runs(access_scope=scope).training_runs


def test_a_copy_is_a_run_of_a_project_or_of_the_session(service, rest, saved):
    copy = rest.copy_weights(saved, "p3", ttl_seconds=3600)
    assert copy != saved and checkpoint(rest, copy).expires_at is not None
    assert len(rest.list_training_runs(project_id="p3").training_runs) == 1
    own = rest.submit_copy_weights(saved).result(30)
    assert own.startswith(f"tinker://{service.session_id}:train:")
    # The copy used a model number, so the next model has another one.
    again = service.create_training_client_from_state(own)
    assert again.model_id not in own


def test_external_weights_can_be_downloaded_from_their_urls(rest, training):
    path = training.save_weights_external("out").path
    links = rest.get_external_weights_urls(path)
    assert rest.submit_get_external_weights_urls(path).result(30).urls.keys() == links.urls.keys()
    (url,) = links.urls.values()
    with urllib.request.urlopen(url, timeout=30) as response:
        assert response.read(2) == b"\x1f\x8b"
    assert links.expires.tzinfo is not None


PATH = "tinker://run-1/weights/c1"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda rest: rest.set_checkpoint_ttl_from_tinker_path(PATH, 0), "ttl_seconds .* not 0"),
        (lambda rest: rest.set_checkpoint_ttl_from_tinker_path("run-1", 3600), "tinker://RUN"),
        (lambda rest: rest.assign_session_project("s", ""), "project_id .* ''"),
        (lambda rest: rest.assign_session_project("", "p"), "session_id"),
        (lambda rest: rest.copy_weights("weights"), "tinker://RUN"),
        (lambda rest: rest.copy_weights(PATH, 3), "destination_project_id .* not 3"),
        (lambda rest: rest.copy_weights(PATH, weights_access_token=""), "weights_access_token"),
        (lambda rest: rest.get_external_weights_urls("x"), "tinker://RUN"),
        (lambda rest: rest.list_training_runs(access_scope="all"), "'owned' or 'accessible', not 'all'"),
        (lambda rest: rest.list_training_runs(project_id=""), "project_id .* not ''"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_sent(call, text):
    with bare_session() as (server, session):
        with pytest.raises(ValueError, match=text):
            call(RestClient(session))
        assert not server.requests


def test_retries_of_a_copy_have_one_key_and_no_log_contains_its_token(caplog):
    caplog.set_level(logging.DEBUG)
    with bare_session() as (server, session):
        server.script(
            "copy_weights", Answer(503, {"detail": "busy"}), Answer(body={"tinker_path": "tinker://c/weights/c1"})
        )
        server.script("copy_weights", Answer(403, {"detail": "not yours"}))
        rest = RestClient(session)
        assert rest.copy_weights(PATH, "p", weights_access_token=SECRET) == "tinker://c/weights/c1"
        with pytest.raises(errors.PermissionDeniedError) as caught:
            rest.copy_weights(PATH, "p", weights_access_token=SECRET)
        first, second, third = server.sent("copy_weights")
        keys = [one.headers["x-idempotency-key"] for one in (first, second, third)]
        assert keys[0] == keys[1] != keys[2]
        assert {one.headers["x-tinker-weights-access-token"] for one in (first, second, third)} == {SECRET}
        assert SECRET not in caplog.text and SECRET not in repr(caught.value.__dict__)


def test_parameters_of_0_38_are_not_sent_by_default():
    with bare_session() as (server, session):
        server.script(
            "training_runs", Answer(body={"training_runs": [], "cursor": {"offset": 0, "limit": 20, "total_count": 0}})
        )
        RestClient(session).list_training_runs()
        assert server.requests[0].query == {"limit": "20", "offset": "0"}


@pytest.fixture
def old():
    with LocalServer() as server:
        yield server


def test_a_server_of_0_7_responds_to_operations_of_0_38_with_not_found(old):
    with tinkex_sync.ServiceClient(base_url=old.base_url, api_key="k") as service:
        rest = service.create_rest_client()
        pytest.raises(errors.NotFoundError, rest.set_checkpoint_ttl_from_tinker_path, PATH, 3600).match(
            "no such endpoint"
        )


@pytest.mark.parametrize("url", ["s3://bucket/a b", "file:///tmp/x", "gs://x/y", "HTTPS://host/x?signature=1"])
def test_an_archive_url_of_any_scheme_is_returned_unchanged(url):
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        with tinkex_sync.ServiceClient(base_url=server.base_url, api_key="k", load_plugins=False) as service:
            rest = service.create_rest_client()
            for answer in (Answer(302, headers={"location": url}), Answer(200, body={"url": url})):
                server.defaults["training_runs/run/checkpoints/weights/c/archive"] = answer
                assert rest.get_checkpoint_archive_url("run", "weights/c").url == url


def test_a_deletion_whose_response_was_lost_is_reported_as_done(server, rest, training):
    path = training.save_state("short-lived").path
    server.set_faults(Faults(drop_after={"training_runs": 1}))
    assert rest.delete_checkpoint_from_tinker_path(path) is None
    with pytest.raises(errors.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path)  # no attempt of this call was lost
