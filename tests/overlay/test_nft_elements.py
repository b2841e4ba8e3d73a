"""Elements changed by netlink, on a real kernel in a namespace of its own."""

from __future__ import annotations

from typing import Any

import pytest

from overlay import errors, nft_elements

pytestmark = pytest.mark.contract

Netns = Any  # the class in conftest.py, which cannot be imported
ONE, TWO = b"fph1" + bytes(12), b"fph2" + bytes(12)
SET = "table bridge t { set s { type ifname ; } ; }"


def listed(netns: Netns) -> str:
    found: str = netns.run("nft list set bridge t s")
    return " ".join(found.split())


def test_elements_come_and_go_in_one_transaction(netns: Netns) -> None:
    netns.run("nft -f -", text=SET)
    with netns.inside():
        nft_elements.change("t", remove={}, add={"s": [ONE]})
        assert 'elements = { "fph1" }' in listed(netns)
        nft_elements.change("t", remove={"s": [ONE]}, add={"s": [TWO]})
        assert 'elements = { "fph2" }' in listed(netns)
        many = [f"fph{number}".encode().ljust(16, b"\0") for number in range(10, 2010)]
        nft_elements.change("t", remove={}, add={"s": many})
        assert listed(netns).count('"fph') == 2001


def test_what_cannot_be_done_whole_is_not_done_at_all(netns: Netns) -> None:
    netns.run("nft -f -", text=SET)
    with netns.inside():
        with pytest.raises(errors.KernelError, match="elements of t not changed: No such file or directory"):
            nft_elements.change("t", remove={"s": [ONE]}, add={"s": [TWO]})
        assert "elements" not in listed(netns)
        with pytest.raises(errors.KernelError, match="elements of gone not changed: No such file or directory"):
            nft_elements.change("gone", remove={}, add={"s": [TWO]})
