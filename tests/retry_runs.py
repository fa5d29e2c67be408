"""Running a function by a retry policy as a connection does."""

from tinkex_sync.config import Config
from tinkex_sync.errors import APIError
from tinkex_sync.http.retry import RetryLog, make_policies

#: The policies of a client with default settings.
POLICIES = make_policies(Config())


def run(attempts, send, sleep):
    """Run ``send(attempts)`` by the policy of ``attempts``."""

    def attempt(made):
        with made.running():
            return send(made)

    log = RetryLog(attempts.clock)

    def before_sleep(state):
        log.report(attempts, state.upcoming_sleep, state.outcome.exception(), "asample", 1)

    try:
        return attempts.policy.retrying(sleep, before_sleep)(attempt, attempts)
    except APIError as error:
        attempts.describe(error)
        raise
