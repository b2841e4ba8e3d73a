"""Names and addresses of a lab."""

from __future__ import annotations

from lab import config, plan


def test_every_machine_has_its_promised_place() -> None:
    made = plan.plan_lab(config.LabConfig(name="x", hosts=2, etcd_members=3))
    assert [(seat.netns, str(seat.address), str(seat.address_v6)) for seat in made.seats] == [
        ("x-h1", "198.51.100.11/24", "2001:db8:51::11/64"),
        ("x-h2", "198.51.100.12/24", "2001:db8:51::12/64"),
        ("x-etcd1", "198.51.100.2/24", "2001:db8:51::2/64"),
        ("x-etcd2", "198.51.100.3/24", "2001:db8:51::3/64"),
        ("x-etcd3", "198.51.100.4/24", "2001:db8:51::4/64"),
        ("x-registry", "198.51.100.5/24", "2001:db8:51::5/64"),
        ("x-client", "198.51.100.6/24", "2001:db8:51::6/64"),
        ("x-outside", "203.0.113.10/24", "2001:db8:113::10/64"),
    ]
    assert str(made.client.gateway) == "198.51.100.1"
    assert str(made.outside.gateway) == "203.0.113.1"
    assert (str(made.client.gateway_v6), str(made.outside.gateway_v6)) == ("2001:db8:51::1", "2001:db8:113::1")
    assert made.registry_name == "198.51.100.5:5000"
    assert made.etcd_endpoints[2] == "http://198.51.100.4:2379"


def test_what_was_not_asked_for_is_not_there() -> None:
    made = plan.plan_lab(config.LabConfig(name="x", hosts=1, etcd_members=0, registry=False))
    assert made.netns == ("x-net", "x-h1", "x-client", "x-outside")
    assert made.registry_name is None
    assert made.etcd_endpoints == ()


def test_the_largest_lab_has_no_address_or_mac_twice() -> None:
    made = plan.plan_lab(config.LabConfig(hosts=config.MAX_HOSTS, etcd_members=3))
    assert len({seat.ip for seat in made.seats}) == len({seat.ip_v6 for seat in made.seats}) == len(made.seats)
    assert len({seat.mac for seat in made.seats}) == len(made.seats)
    assert all(seat.address.ip in plan.UNDERLAY for seat in made.on_bridge)


def test_a_mac_spells_the_address_and_is_locally_administered() -> None:
    assert plan.plan_lab(config.LabConfig()).hosts[0].mac == "02:00:c6:33:64:0b"


def test_no_port_name_is_too_long_for_the_kernel() -> None:
    made = plan.plan_lab(config.LabConfig(name="a" * 16, hosts=50, etcd_members=3))
    assert all(len(seat.machine) <= 15 for seat in made.seats)
