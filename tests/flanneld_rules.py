"""What a flanneld with --ip-masq leaves in the packet filter, as commands: none can be had where these tests run.

Source: flannel pkg/trafficmngr/iptables/iptables.go; in v0.20.2 network/iptables.go.
"""

from __future__ import annotations

MULTICAST = {"iptables": "224.0.0.0/4", "ip6tables": "ff00::/8"}
VERSIONS = ("0.20.2", "0.28.9")


def make(version: str, tool: str, network: str, subnet: str) -> list[str]:
    """Chains, rules and the jumps to them of one family, which `tool` says."""
    masqueraded = f"-s {network} ! -d {MULTICAST[tool]} -j MASQUERADE --random-fully"
    to_peers = f"! -s {network} -d {network} -j MASQUERADE --random-fully"
    kept = f"! -s {network} -d {subnet} -j RETURN"
    if version == "0.20.2":
        first, rules = "-I", (f"-s {network} -d {network} -j RETURN", masqueraded, kept, to_peers)
    else:
        inside = (f"-s {subnet} -d {network} -j RETURN", f"-s {network} -d {subnet} -j RETURN")
        first, rules = "-A", (*inside, kept, masqueraded, to_peers)
    masq, forward = ('-m comment --comment "flanneld masq"', '-m comment --comment "flanneld forward"')
    return [
        f"{tool} -t nat -N FLANNEL-POSTRTG",
        f"{tool} -t nat {first} POSTROUTING {masq} -j FLANNEL-POSTRTG",
        f"{tool} -t nat -A FLANNEL-POSTRTG {masq} -m mark --mark 0x4000/0x4000 -j RETURN",
        *(f"{tool} -t nat -A FLANNEL-POSTRTG {masq} {rule}" for rule in rules),
        f"{tool} -N FLANNEL-FWD",
        f"{tool} {first} FORWARD {forward} -j FLANNEL-FWD",
        *(f"{tool} -A FLANNEL-FWD -{way} {network} {forward} -j ACCEPT" for way in "sd"),
    ]
