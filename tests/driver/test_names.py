from __future__ import annotations

import ipaddress

import hypothesis
import pytest
from hypothesis import strategies as st

from driver import errors, names

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
    ],
)
def test_what_is_no_id_never_gets_near_a_name(text: str) -> None:
    with pytest.raises(
        errors.BadRequest, match="NetworkID: expected a Docker id of 12 to 64 letters and digits, got"
    ):
        names.parse_id(text, "NetworkID")


def test_a_message_about_an_endless_id_is_short() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        names.parse_id("/" * 1_000_000, "NetworkID")
    assert len(str(caught.value)) < 200


def test_interface_names_carry_the_short_id_and_fit_the_kernel() -> None:
    endpoint_id = names.EndpointId("1a2299da1bc936f3087e7e7f6a9c6c42f73571d1d650641abc4bb4fd57096809")
    made = (names.bridge_name(NETWORK_ID), names.host_end(endpoint_id), names.container_end(endpoint_id))
    assert made == ("fp-4d5d70de7705", "fph1a2299da1bc9", "fpc1a2299da1bc9")
    assert max(map(len, made)) == 15


@hypothesis.given(
    st.text("0123456789abcdef", min_size=64, max_size=64), st.text("0123456789abcdef", min_size=64, max_size=64)
)
def test_names_of_two_ids_meet_only_where_their_short_ids_do(one: str, other: str) -> None:
    same = one[:12] == other[:12]
    first, second = names.EndpointId(one), names.EndpointId(other)
    assert (names.host_end(first) == names.host_end(second)) is same
    assert names.host_end(first) != names.container_end(second)
    assert names.bridge_name(names.NetworkId(one)) not in {names.host_end(second), names.container_end(second)}


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
