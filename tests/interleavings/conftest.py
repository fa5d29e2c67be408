"""The option that runs one schedule again."""


def pytest_addoption(parser):
    parser.addoption("--interleaving-seed", help="run only the schedule of this seed (tests/interleavings)")
