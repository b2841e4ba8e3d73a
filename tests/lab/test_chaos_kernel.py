"""Every kind of kernel fault finds something to break on a host that is whole, and nothing where nothing is."""

from __future__ import annotations

import pytest

from lab import chaos_kernel, chaos_plan
from lab.chaos_kernel import Seen

WHOLE = Seen(
    routes=({"dst": "10.2.7.0/24", "gateway": "10.2.7.0"},),
    neighbours=({"dst": "10.2.7.0", "lladdr": "02:00:00:00:00:07"},),
    fdb=({"mac": "02:00:00:00:00:07", "dst": "198.51.100.12"},),
    vxlan={"ifname": "flannel.1", "addr_info": ({"family": "inet", "local": "10.2.6.0", "prefixlen": 32},)},
    bridges={"fpbr": ("10.2.6.1/24",)},
    ports=("fph1", "fph2"),
)
BARE = Seen(routes=(), neighbours=(), fdb=(), vxlan=None, bridges={}, ports=())
KINDS = [kind.name for kind in chaos_plan.KERNEL_KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_something_to_break_on_a_whole_host(kind: str) -> None:
    lines = chaos_kernel.lines(kind, WHOLE)
    assert lines
    assert not any("{" in line for line in lines)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.split("-")[0] in ("route", "vxlan", "bridge", "port")]
)
def test_there_is_nothing_to_break_where_nothing_is(kind: str) -> None:
    assert chaos_kernel.lines(kind, BARE) == []


def test_one_object_is_broken_and_named() -> None:
    assert chaos_kernel.lines("route-deleted", WHOLE) == ["ip route del 10.2.7.0/24"]
    assert chaos_kernel.lines("fdb-deleted", WHOLE) == ["bridge fdb del 02:00:00:00:00:07 dev flannel.1 self"]
    assert chaos_kernel.lines("port-removed", WHOLE) == [
        "ip link set fph1 nomaster",
        "ip link set fph2 nomaster",
    ]
