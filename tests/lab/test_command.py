"""Commands are bounded, and their failures say what was run."""

from __future__ import annotations

import pytest

from lab import command, errors


def test_a_failure_shows_the_line_the_code_and_what_was_said() -> None:
    with pytest.raises(errors.CommandFailed, match=r"`sh -c 'echo no >&2; exit 3'` ended with code 3: no") as failed:
        command.check(command.run(["sh", "-c", "echo no >&2; exit 3"]))
    assert failed.value.result == command.Result(argv=("sh", "-c", "echo no >&2; exit 3"), code=3, out="", err="no\n")


def test_standard_input_may_be_bytes_or_nothing() -> None:
    assert command.run(["cat"], stdin=b"x").out == "x"
    assert command.run(["cat"]).out == ""


def test_a_command_that_does_not_end_is_ended() -> None:
    with pytest.raises(errors.Timeout, match=r"`sleep 60` did not end within 0.05 s"):
        command.run(["sleep", "60"], timeout_s=0.05)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(errors.LabError, match="no-such-program: not installed"):
        command.run(["no-such-program"])


def test_a_wait_asks_at_least_once_and_names_what_did_not_come() -> None:
    command.wait_until("dawn", lambda: True, timeout_s=0)
    with pytest.raises(errors.Timeout, match="dawn: not within 0 s"):
        command.wait_until("dawn", lambda: False, timeout_s=0)


def test_everything_runs_to_its_end_before_the_first_error_is_raised() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise errors.LabError("one")
        done.append(item)

    with pytest.raises(errors.LabError, match="one"):
        command.each(work, [1, 2, 3])
    assert sorted(done) == [2, 3]
