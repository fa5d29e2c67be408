"""Shared argument checks: accepted values are returned, others raise with name, value and remedy."""

import pytest

from tinkex_sync import validation


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (lambda value: validation.check_text("name", value), "a"),
        (lambda value: validation.check_optional_text("name", value), None),
        (lambda value: validation.check_count("name", value), 0),
        (lambda value: validation.check_one_of("name", value, ("a", "b")), "b"),
        (lambda value: validation.check_one_of("name", value, ("a", "b")), None),
        (validation.check_ttl, None),
        (validation.check_ttl, 1),
        (validation.check_ttl, 10**9),
        (validation.check_labels, {"a": "b"}),
        (validation.check_labels, None),
        (validation.check_model_path, "tinker://r/weights/x"),
    ],
)
def test_a_valid_value_is_returned(check, value) -> None:
    assert check(value) == value


@pytest.mark.parametrize(
    ("check", "error", "message"),
    [
        (lambda: validation.check_text("name", ""), ValueError, "name must be a string that is not empty, not ''"),
        (lambda: validation.check_text("name", 5), ValueError, "name must be a string that is not empty, not 5"),
        (lambda: validation.check_count("n", True), ValueError, "n must be a whole number of at least 0, not True"),
        (lambda: validation.check_count("n", 0, least=1), ValueError, "of at least 1, not 0"),
        (lambda: validation.check_one_of("kind", "c", ("a", "b")), ValueError, "kind must be 'a' or 'b', not 'c'"),
        (lambda: validation.check_ttl(0), ValueError, "ttl_seconds must be a whole number of at least 1, not 0"),
        (lambda: validation.check_ttl(True), ValueError, "not True"),
        (lambda: validation.check_labels({"a": 1}), TypeError, "user_metadata must map strings .* 'a' to 1"),
        (lambda: validation.check_labels(["a"]), TypeError, "user_metadata must be a dict"),
        (lambda: validation.check_model_path("weights"), ValueError, "must start with 'tinker://'.* 'weights'"),
    ],
)
def test_an_invalid_value_is_named_with_what_is_allowed(check, error, message) -> None:
    with pytest.raises(error, match=message):
        check()


@pytest.mark.parametrize("value", [b"secret", ["secret"]])
def test_a_secret_is_not_in_the_message(value) -> None:
    with pytest.raises(ValueError, match="^token must be") as caught:
        validation.check_text("token", value, secret=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "parts"), [("tinker://r/weights/x", ("r", "weights/x")), ("tinker://r/x", ("r", "x"))]
)
def test_a_checkpoint_path_is_split_into_run_and_checkpoint(path, parts) -> None:
    assert validation.split_checkpoint_path(path) == parts


@pytest.mark.parametrize(
    "path", ["r/weights/x", "tinker://r", "tinker://r/", "tinker://r/a/b/c", "tinker://../weights/x", None, 5]
)
def test_another_path_is_refused_with_an_example(path) -> None:
    with pytest.raises(ValueError, match="tinker://RUN/weights/NAME"):
        validation.split_checkpoint_path(path)
