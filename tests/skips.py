"""With CI=true a skipped test fails the run, unless it needs a GPU; those that do are listed at the end."""

import os

import pytest

NEEDS_GPU = "needs a CUDA device"
SKIPPED = pytest.StashKey[list[tuple[str, str]]]()  # (test, reason)
LEFT_OUT = pytest.StashKey[list[str]]()  # tests with the mark gpu that were not chosen


class Skips:
    """Collects what did not run, and says so at the end."""

    def __init__(self, config: pytest.Config):
        self.config = config
        config.stash[SKIPPED], config.stash[LEFT_OUT] = [], []

    def note(self, report) -> None:
        """Remember a skip of a test or a whole file."""
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.config.stash[SKIPPED].append((report.nodeid, reason.removeprefix("Skipped: ")))

    pytest_runtest_logreport = pytest_collectreport = note

    def pytest_deselected(self, items) -> None:
        """Remember the tests that ask for a GPU."""
        self.config.stash[LEFT_OUT] += [item.nodeid for item in items if item.get_closest_marker("gpu")]

    def wrong(self) -> list[tuple[str, str]]:
        """Skips that CI does not allow."""
        found = self.config.stash[SKIPPED] if os.environ.get("CI") == "true" else []
        return [(test, reason) for test, reason in found if NEEDS_GPU not in reason]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session, exitstatus) -> None:
        """Fail a run that is green but for them."""
        if self.wrong() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """List what did not run."""
        allowed = [test for test, reason in self.config.stash[SKIPPED] if NEEDS_GPU in reason]
        for test in sorted({*allowed, *self.config.stash[LEFT_OUT]}):
            terminalreporter.write_line(f"NOT RUN {test}: {NEEDS_GPU}")
        for test, reason in self.wrong():
            terminalreporter.write_line(f"SKIPPED {test}: {reason}; in CI only what {NEEDS_GPU} may be", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Take part in the run."""
    config.pluginmanager.register(Skips(config), "llada-v skips")
