"""Processes are told apart by their start, and ended for certain."""

from __future__ import annotations

import dataclasses
import os
import subprocess

import pytest

from lab import process


def test_a_process_that_never_was_has_no_record() -> None:
    assert process.identify(2**22 + 1) is None


def test_one_may_recognise_oneself() -> None:
    me = process.identify(os.getpid())
    assert me is not None
    assert process.is_alive(me)


def test_killing_waits_until_it_is_gone() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        record = process.identify(child.pid)
        assert record is not None
        process.kill([record])
        assert not process.is_alive(record)
        assert child.wait(timeout=5) == -9
        process.kill([record])


@pytest.mark.parametrize("ticks", [-1, 1])
def test_a_reused_pid_is_left_alone(ticks: int) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        record = process.identify(child.pid)
        assert record is not None
        process.kill([dataclasses.replace(record, started=record.started + ticks)])
        assert process.is_alive(record)
        child.kill()
