"""Errors for the user: titles, remedies and details."""

import pytest
from command_runs import Commands, variables

from tinkex_sync import errors
from tinkex_sync.cli.error_text import describe_error


def test_an_unknown_run_is_a_resource_that_is_not_found(command):
    done = command("run", "info", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Resource not found\nDetails: Error code: 404")


def test_a_wrong_key_names_its_variable(server):
    done = Commands(variables(server.base_url, "wrong"))("run", "list")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Authentication failed\n")
    assert "TINKER_API_KEY" in done.stderr


def test_a_wrong_url_and_a_missing_key_are_configuration_errors(server):
    wrong_url = Commands(variables("ftp://nowhere"))("run", "list")
    assert wrong_url.returncode == 1
    assert wrong_url.stderr.startswith("Error: Configuration error: base_url must be a URL")
    settings = {name: value for name, value in variables(server.base_url).items() if "API_KEY" not in name}
    no_key = Commands(settings)("run", "list")
    assert no_key.stderr.startswith("Error: Configuration error: no API key")


@pytest.mark.parametrize(
    ("status", "title", "remedy"),
    [
        (403, "Permission denied", "This API key has no permission for this operation."),
        (418, "API error (status 418)", None),
        (503, "Internal server error", "The server has a problem; please try again later."),
    ],
)
def test_a_status_code_has_a_title_and_a_remedy(status, title, remedy):
    error = errors.status_error(status, body={"detail": "no"}, headers={})
    found_title, lines = describe_error(error)
    assert found_title == title
    assert lines == [*([remedy] if remedy else []), f"Details: {error}"]


def test_errors_of_this_package_have_no_traceback():
    assert describe_error(errors.APIConnectionError("reset")) == ("Connection failed", ["Details: reset"])
    assert describe_error(errors.APITimeoutError("slow"))[0] == "Request timeout"
    assert describe_error(OSError("disk")) == ("disk", [])
    assert describe_error(ValueError()) == ("ValueError", [])


def test_other_errors_have_a_traceback():
    try:
        raise ZeroDivisionError("boom")
    except ZeroDivisionError as error:
        title, lines = describe_error(error)
    assert title == "Unexpected error occurred: ZeroDivisionError: boom"
    assert lines[0] == "Traceback (most recent call last):"
