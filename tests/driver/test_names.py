from __future__ import annotations

import ipaddress
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from driver import errors, names
from overlay import netstate

SWARM_ID = "mlddrf5etdgqpmi68bi6qqn6i"
NETWORK_ID = names.NetworkId("4d5d70de7705441acd2814f4eec6b42cba3f32304fa1a27b39f01aaf43b1a36e")


@pytest.mark.parametrize("text", [NETWORK_ID, NETWORK_ID[:12], SWARM_ID])
def test_dockers_ids_are_taken_as_they_are(text: str) -> None:
    assert names.parse_id(text, "NetworkID") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "a" * 11,
        "a" * 65,
        "../../../etc/passwd",
        "4d5d70de7705/../x",
        "4d5d70de7705\n",
        "4d5d70de 7705",
        "é" * 12,
        NETWORK_ID.upper(),
        NETWORK_ID[:-1] + "A",
        "..",
        "." * 12,
        "con",
        "4d5d70de7705%2f..",
        "4d5d70de7705\0",
        "$(reboot)4d5d70",
    ],
)
def test_what_is_no_id_never_gets_near_a_name(text: str) -> None:
    with pytest.raises(
        errors.BadRequest, match="NetworkID: expected a Docker id of 12 to 64 digits and lower-case letters, got"
    ):
        names.parse_id(text, "NetworkID")


def test_a_message_about_an_endless_id_is_short() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        names.parse_id("/" * 1_000_000, "NetworkID")
    assert len(str(caught.value)) < 200


def test_interface_names_carry_the_short_id_and_fit_the_kernel() -> None:
    endpoint_id = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
    host_end = names.host_end(endpoint_id)
    made = (names.bridge_name(NETWORK_ID), host_end, names.container_end(host_end))
    assert made == ("fp-4d5d70de7705", "fph1a2299da1bc9", "fpc1a2299da1bc9")
    assert max(map(len, made)) == 15


def test_a_name_that_is_taken_gives_way_to_another_of_the_same_id() -> None:
    first = names.bridge_name(NETWORK_ID)
    second = names.bridge_name(NETWORK_ID, {first})
    third = names.bridge_name(NETWORK_ID, {first, second})
    assert (first, second, third) == ("fp-4d5d70de7705", "fp-38f1a7f6ac0f", "fp-85ba12b050e3")


SHORT_IDS = st.sampled_from((NETWORK_ID[:12], SWARM_ID[:12], "0" * 12)) | st.text(
    "0123456789abcdef", min_size=12, max_size=12
)
HEX_IDS = st.builds(str.__add__, SHORT_IDS, st.text("0123456789abcdef", min_size=52, max_size=52))
SWARM_IDS = st.builds(
    str.__add__, SHORT_IDS, st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=13, max_size=13)
)


@hypothesis.given(st.lists(HEX_IDS | SWARM_IDS, max_size=30, unique=True))
def test_names_never_collide_and_always_fit_the_kernel(ids: list[str]) -> None:
    made: set[netstate.IfName] = set()
    for text in ids:
        parsed = names.parse_id(text, "NetworkID")
        host_end = names.host_end(names.EndpointId(parsed), made)
        made |= {names.bridge_name(names.NetworkId(parsed), made), host_end, names.container_end(host_end)}
    assert len(made) == 3 * len(ids)
    assert all(len(name) == 15 and re.fullmatch(r"fp[-hc][0-9a-z]{12}", name) for name in made)


def test_a_mac_is_kept_in_lower_case() -> None:
    assert names.parse_mac("02:42:BE:95:3E:BA", "m") == "02:42:be:95:3e:ba"


@pytest.mark.parametrize(
    "text",
    ["", "02:42:be:95:3e", "02-42-be-95-3e-ba", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "x"],
)
def test_a_mac_that_no_container_can_have_is_refused(text: str) -> None:
    with pytest.raises(errors.BadRequest, match="m: expected a unicast MAC"):
        names.parse_mac(text, "m")


def test_the_mac_follows_the_address() -> None:
    assert names.mac_of(ipaddress.IPv4Address("10.2.20.5")) == "02:42:0a:02:14:05"
