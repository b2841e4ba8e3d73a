from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from plugin import logs


@pytest.fixture
def configure() -> Iterator[Callable[[], logs.Recent]]:
    """To be called in the test itself: pytest has other streams before it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("urllib3", "docker", "pyroute2")}
    root.handlers[:] = []
    yield lambda: logs.configure("info")
    root.handlers[:] = before
    root.setLevel(level)
    for name, old in chatty.items():
        logging.getLogger(name).setLevel(old)


log = logging.getLogger("driver.service")


def test_errors_go_to_stderr_and_the_rest_to_stdout(
    configure: Callable[[], logs.Recent], capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    log.debug("unseen")
    log.info("network created id=%s", "4d5d70de7705")
    log.warning("slow")
    log.error("broken")
    out, err = capsys.readouterr()
    assert out == "info driver.service: network created id=4d5d70de7705\nwarning driver.service: slow\n"
    assert err == "error driver.service: broken\n"


def test_the_last_warnings_are_kept_for_status(configure: Callable[[], logs.Recent]) -> None:
    recent = configure()
    log.info("unseen")
    for number in range(30):
        log.warning("warning %d", number)
    lines = recent.lines()
    assert len(lines) == logs.KEPT
    assert lines[0].endswith("Z warning warning 10")
    assert lines[-1].endswith("Z warning warning 29")


def test_a_long_line_is_cut_before_an_old_engine_stops_reading(
    configure: Callable[[], logs.Recent], capsys: pytest.CaptureFixture[str]
) -> None:
    recent = configure()
    log.warning("x" * 100_000)
    out, _ = capsys.readouterr()
    assert len(out) < 5000
    assert out.endswith(" [cut]\n")
    assert len(recent.lines()[0]) <= logs.LINE_LIMIT


def test_what_others_sent_us_cannot_forge_a_line_or_break_the_log(
    configure: Callable[[], logs.Recent], capsys: pytest.CaptureFixture[str]
) -> None:
    recent = configure()
    log.warning("pool %s is not known", "x\nerror plugin: all is lost\r\x1b[2J \ud800 é")
    out, err = capsys.readouterr()
    told = r"pool x\nerror plugin: all is lost\r\x1b[2J \ud800 é is not known"
    assert (out, err) == (f"warning driver.service: {told}\n", "")
    assert recent.lines()[0].endswith(f"warning {told}")


def test_a_traceback_keeps_its_lines(
    configure: Callable[[], logs.Recent], capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    try:
        {}["x"]
    except KeyError:
        log.exception("bug: unexpected error in %s", "Leave")
    _, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[:2] == ["error driver.service: bug: unexpected error in Leave", "Traceback (most recent call last):"]
    assert lines[-1] == "KeyError: 'x'"


def test_a_second_configuration_replaces_the_first(
    configure: Callable[[], logs.Recent], capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    logs.configure("error")
    log.warning("unseen")
    log.error("once")
    assert capsys.readouterr() == ("", "error driver.service: once\n")
