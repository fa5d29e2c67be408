"""Every error class of the package, present and future, survives pickle with its attributes and message."""

import copy
import importlib
import inspect
import pickle
import pkgutil

import pytest

import tinkex_sync
from tinkex_sync import errors
from tinkex_sync.errors import SentRequest, TinkexError

#: A value for each constructor argument.
ARGUMENTS = {
    "message": "it went wrong: ümlaut",
    "body": {"detail": ["a", 1]},
    "status_code": 418,
    "headers": {"retry-after": "2"},
    "response": errors.ErrorResponse(418, {"x": "y"}, "text", SentRequest("GET", "http://127.0.0.1/")),
    "request": SentRequest("GET", "http://127.0.0.1/"),
    "request_id": "req-7",
    "retry_after": 2.0,
    "category": "server",
    "path": "sequences[0].tokens",
    "accepted_ranges": ((0, 3), (5, 7)),
    "refused_ranges": ((3, 5), (7, 9)),
    "phase": "polling",
    "sent": "yes",
    "queue_state": "paused_capacity",
    "seq_id": 11,
    "run_id": "run-1",
    "checkpoint": "tinker://run-1/weights/c",
}
#: Attributes that the client sets on errors after their construction.
SET_AFTERWARDS = {
    "request": SentRequest("POST", "http://127.0.0.1/api/v1/forward"),
    "attempts": 4,
    "elapsed": 12.5,
    "unsent": True,
    "is_final": True,
    "reused": True,
    "request_id": "req-8",
}


def _error_classes():
    for module in pkgutil.walk_packages(tinkex_sync.__path__, "tinkex_sync."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError:  # an extra is not installed
                continue
    found, todo = set(), [TinkexError]
    while todo:
        cls = todo.pop()
        found.add(cls)
        todo += cls.__subclasses__()
    return sorted((cls for cls in found if cls.__module__.startswith("tinkex_sync")), key=lambda cls: cls.__name__)


CLASSES = _error_classes()


def made(cls):
    """Return an error with a value for every argument."""
    given, texts = {}, ("message",)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        assert name in ARGUMENTS, f"{cls.__name__} has the argument {name}: add a value to ARGUMENTS"
        given[name] = ARGUMENTS[name]
    positional = [given.pop(name) for name in texts if name in given] or [ARGUMENTS["message"]]
    return cls(*positional, **given)


def test_all_classes_of_the_module_are_tested():
    defined = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }
    assert defined <= set(CLASSES)
    assert len(defined) > 20


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickle(cls, protocol):
    error = made(cls)
    error.__dict__.update({name: value for name, value in SET_AFTERWARDS.items() if name in error.__dict__})
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is cls
    assert (str(back), back.args, back.__dict__) == (str(error), error.args, error.__dict__)
    assert ARGUMENTS["message"] in str(back)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_pickle_keeps_text_that_was_appended_to_the_message(cls):
    error = made(cls)
    error.args = (f"{error.args[0]} [set TINKER_API_KEY]", *error.args[1:])
    assert str(pickle.loads(pickle.dumps(error))).endswith("[set TINKER_API_KEY]")
    assert str(copy.copy(made(cls))) == str(made(cls))


def test_pickle_keeps_the_response_of_an_error():
    error = errors.status_error(429, body={"detail": "slow down"}, headers={"x": "y"}, retry_after=2.0)
    back = pickle.loads(pickle.dumps(error))
    assert back.response == error.response
    assert back.response.json() == {"detail": "slow down"}


def test_the_package_exports_exactly_the_public_errors():
    for name in errors.__all__:
        assert name in tinkex_sync.__all__
        assert getattr(tinkex_sync, name) is getattr(errors, name)
    exported = [getattr(tinkex_sync, name) for name in tinkex_sync.__all__]
    classes = {one for one in exported if inspect.isclass(one) and issubclass(one, TinkexError)}
    assert {one.__name__ for one in classes if one.__module__ == errors.__name__} == set(errors.__all__)


class Response:
    """A response of httpx, as far as errors read it."""

    status_code, headers, request = 409, {"x-request-id": "7"}, "GET /"


class RequestlessResponse(Response):
    @property
    def request(self):
        raise RuntimeError("The request instance has not been set on this response.")


def test_errors_can_be_made_with_a_response_or_a_request_as_in_the_official_sdk():
    response, body = Response(), {"detail": "x"}
    for made in (errors.ConflictError("m", response=response, body=body), errors.ConflictError("m", response, body)):
        assert (made.status_code, made.message, made.body) == (409, "m", body)
        assert made.response is response
        assert (made.request, made.headers) == ("GET /", {"x-request-id": "7"})
    assert errors.APIStatusError("m", response=RequestlessResponse(), body=None).request is None
    assert errors.APIResponseValidationError(response=response, body=body).status_code == 409
    assert errors.APITimeoutError(request="GET /").request == "GET /"
    assert errors.APIConnectionError(message="m", request="GET /").message == "m"
    assert errors.APIError("m", "GET /", body=None).request == "GET /"
    with pytest.raises(TypeError, match="BadRequestError needs response= or status_code="):
        errors.BadRequestError("m")
