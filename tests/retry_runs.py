"""Running a function by a retry policy as a connection does."""

from tinkex_sync.config import Config
from tinkex_sync.errors import APIError
from tinkex_sync.http.retry import log_long_retry, make_policies

#: The policies of a client with default settings.
POLICIES = make_policies(Config())


def run(attempts, send, sleep):
    """Run ``send(attempts)`` by the policy of ``attempts``."""

    def attempt(made):
        with made.running():
            return send(made)

    def before_sleep(state):
        log_long_retry(attempts, state.upcoming_sleep, state.outcome.exception(), "a call")

    try:
        return attempts.policy.retrying(sleep, before_sleep)(attempt, attempts)
    except APIError as error:
        attempts.describe(error)
        raise
