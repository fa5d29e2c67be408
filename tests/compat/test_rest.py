"""The official RestClient: futures, awaited results and pickling."""

import asyncio
import concurrent.futures
import pickle

import pytest

import tinkex_sync.compat as tinker


def test_a_rest_client_can_be_pickled(client):
    rest = pickle.loads(pickle.dumps(client.create_rest_client()))
    session = client.holder.get_session_id()
    assert rest.get_session(session).result().training_run_ids == []
    assert rest.get_telemetry() is None
    rest.holder.close()
    assert client.create_sampling_client(base_model="tinkex/tiny")  # closing the copy ends only the copy


@pytest.fixture
def rest(client):
    return client.create_rest_client()


def test_listings_are_futures_and_can_be_awaited(client, rest):
    path = client.create_lora_training_client("tinkex/tiny", rank=2).save_state("a").result().path
    run = tinker.types.ParsedCheckpointTinkerPath.from_tinker_path(path).training_run_id
    listing = rest.list_checkpoints(run)
    assert isinstance(listing, concurrent.futures.Future)
    awaited = asyncio.run(rest.list_checkpoints_async(run))
    assert [one.tinker_path for one in listing.result(30).checkpoints] == [path]
    assert listing.result() == awaited
    assert rest.get_training_run_by_tinker_path(path).result(30).training_run_id == run


def test_results_that_the_official_client_returns_as_api_futures_are_api_futures(client, rest):
    assert isinstance(rest.get_server_capabilities(), tinker.APIFuture)
    path = client.create_lora_training_client("tinkex/tiny", rank=2).save_state("b").result().path
    info = rest.get_weights_info_by_tinker_path(path)
    assert isinstance(info, tinker.APIFuture)
    assert info.result(30).lora_rank == 2
    assert rest.get_server_capabilities().result(30).supported_models


def test_a_checkpoint_is_published_and_deleted_by_its_path(client, rest):
    path = client.create_lora_training_client("tinkex/tiny", rank=2).save_state("c").result().path
    run = tinker.types.ParsedCheckpointTinkerPath.from_tinker_path(path).training_run_id

    def public():
        return [one.public for one in rest.list_checkpoints(run).result(30).checkpoints]

    rest.publish_checkpoint_from_tinker_path(path).result(30)
    assert public() == [True]
    rest.unpublish_checkpoint_from_tinker_path(path).result(30)
    assert public() == [False]
    asyncio.run(rest.delete_checkpoint_from_tinker_path_async(path))
    assert public() == []


def test_an_error_of_the_server_is_raised_by_the_future(rest):
    missing = rest.get_training_run("no-such-run")
    with pytest.raises(tinker.NotFoundError, match="no-such-run"):
        missing.result(30)


def test_an_invalid_path_is_refused_before_anything_is_sent(rest):
    with pytest.raises(ValueError, match="invalid checkpoint path 'tinker://x'"):
        rest.get_training_run_by_tinker_path("tinker://x").result(30)
