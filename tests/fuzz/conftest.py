"""Fuzzers are slow, all of them: the fast suite does not even read them."""


def pytest_ignore_collect(collection_path, config):
    """pytest's hook: True leaves a file out."""
    return True if "not slow" in config.option.markexpr else None
