"""Faults of etcd: its members, and what stands in it. `begin` breaks, `end` puts right what nobody else would.

Called by `chaos_faults`; what is broken when is `chaos_plan`'s business. A command that asks etcd is repeated until
it is answered: another fault may have taken the quorum away meanwhile.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Final

from lab import command, errors, lab, services, site

FOREIGN: Final = "10.2.250.0-24"
"""The subnet of a host that is none of ours."""
_FOREIGN_VALUE: Final = json.dumps(
    {
        "PublicIP": "198.51.100.250",
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:02:50"},
    },
    separators=(",", ":"),
)
_GARBAGE: Final = (
    ("not-a-subnet", "hello"),
    ("10.2.251.0-24", "{"),
    ("10.2.252.0-24", '{"PublicIP":"198.51.100.252","BackendType":"vxlan","BackendData":{"VtepMAC":"zz"}}'),
    ("10.99.0.0-24", _FOREIGN_VALUE),
)
_ASK_S: Final = 60.0
_EXPIRES_S: Final = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
    """A subnet key as etcd has it."""

    name: str
    public_ip: str
    mac: str
    lease_id: int


class EtcdFaults:
    """Each method is a kind of `chaos_plan.ETCD_KINDS`, in two halves."""

    def __init__(self, built: lab.Lab) -> None:
        self._lab = built

    def begin(self, kind: str, target: str, draw: float) -> str:  # noqa: PLR0911  a table
        """Break it; tells how, where the fault's name does not. Raises LabError."""
        match kind:
            case "member-replaced":
                return self._remove_member(target)
            case "compacted" | "compacted-without-member":
                self._hit(kind, target)
                return self._compact()
            case "garbage-key":
                return self._put_garbage(draw)
            case "foreign-lease" | "foreign-expires":
                return self._put_foreign(expires=kind == "foreign-expires")
            case "key-deleted" | "lease-expired":
                return self._take_lease(target, expires=kind == "lease-expired")
            case "key-deleted-unheard":
                return self._take_unheard(target, self._drawn(draw))
            case _:
                self._hit(kind, target)
                return ""

    def end(self, kind: str, target: str, draw: float) -> None:
        """Put it right again where the plugins cannot. Raises LabError."""
        match kind:
            case "member-killed" | "compacted-without-member" | "all-killed":
                command.each(lambda member: member.start_etcd(), self._lab.etcd.values())
            case "member-frozen" | "quorum-frozen" | "all-frozen":
                command.each(lambda member: member.thaw(), self._lab.etcd.values())
            case "key-deleted-unheard":
                self._drawn(draw).thaw()
            case "member-replaced":
                self._add_member(target)
            case "garbage-key":
                self.ask("del", _key(_garbage(draw)[0]))
            case "foreign-lease":
                self.ask("del", _key(FOREIGN))

    def _drawn(self, draw: float) -> services.Etcd:
        members = list(self._lab.etcd.values())
        return members[int(draw * len(members)) % len(members)]

    def _hit(self, kind: str, target: str) -> None:
        """Kill or freeze members: the target, all, or all but the target."""
        every = self._lab.etcd.values()
        match kind:
            case "member-killed" | "compacted-without-member":
                self._lab.etcd[target].kill_etcd()
            case "all-killed":
                command.each(lambda member: member.kill_etcd(), every)
            case "member-frozen":
                self._lab.etcd[target].freeze()
            case "quorum-frozen":
                command.each(lambda member: member.freeze(), [one for one in every if one.name != target])
            case "all-frozen":
                command.each(lambda member: member.freeze(), every)

    def ask(self, *args: str) -> str:
        """Run etcdctl until it is answered. Raises Timeout with its last error."""
        last: list[str] = []

        def answered() -> bool:
            try:
                last.append(self._lab.etcdctl(*args, "--command-timeout=3s", timeout_s=10))
            except errors.LabError as exc:
                last.append(str(exc))
                return "has been compacted" in last[-1]  # by ourselves: the answer was lost
            return True

        try:
            command.wait_until(f"etcdctl {args[0]}", answered, timeout_s=_ASK_S, interval_s=0.2)
        except errors.Timeout as exc:
            raise errors.Timeout(f"{exc}: {last[-1]}") from None
        return last[-1]

    def keys(self) -> list[HeldKey]:
        """All subnet keys that are leases. Raises Timeout."""
        told = json.loads(self.ask("get", "--prefix", "-w", "json", f"{site.PREFIX}/subnets/"))
        return [_read_key(entry) for entry in told.get("kvs", ())]

    def revoke_of(self, host_name: str) -> str:
        """Let the lease of a host end. Raises LabError if it has none."""
        return self._take_lease(host_name, expires=True)

    def _take_lease(self, host_name: str, *, expires: bool) -> str:
        ip = self._lab.hosts[host_name].ip
        found = next((key for key in self.keys() if key.public_ip == ip), None)
        if found is None:
            raise errors.LabError(f"{host_name} ({ip}) has no lease in etcd")
        words = ("lease", "revoke", f"{found.lease_id:x}") if expires else ("del", _key(found.name))
        self.ask(*words)
        return f"etcdctl {' '.join(words)}" + (f" (of {found.name})" if expires else "")

    def _take_unheard(self, host_name: str, member: services.Etcd) -> str:
        member.freeze()
        return f"{member.name} frozen, {self._take_lease(host_name, expires=False)}"

    def _put_foreign(self, *, expires: bool) -> str:
        granted = self.ask("lease", "grant", str(_EXPIRES_S if expires else 3600)).split()[1]
        self.ask("put", _key(FOREIGN), _FOREIGN_VALUE, f"--lease={granted}")
        return f"etcdctl put {_key(FOREIGN)} … --lease={granted}"

    def _put_garbage(self, draw: float) -> str:
        name, value = _garbage(draw)
        self.ask("put", _key(name), value)
        return f"etcdctl put {_key(name)} '{value}'"

    def _compact(self) -> str:
        for number in range(3):
            self.ask("put", "/elsewhere", str(number))
        revision = json.loads(self.ask("get", "/elsewhere", "-w", "json"))["header"]["revision"]
        self.ask("compact", str(revision))
        return f"etcdctl compact {revision}"

    def _remove_member(self, target: str) -> str:
        listed = json.loads(self.ask("member", "list", "-w", "json"))["members"]
        found = next(one["ID"] for one in listed if one.get("name") == target)
        self._lab.etcd[target].kill_etcd()
        self.ask("member", "remove", f"{found:x}")
        self._lab.etcd[target].wipe_etcd()
        return f"etcdctl member remove {found:x}, its data deleted"

    def _add_member(self, target: str) -> None:
        peer = self._lab.etcd[target].peer_url
        self.ask("member", "add", target, f"--peer-urls={peer}")
        self._lab.etcd[target].start_etcd()
        services.wait_etcd(list(self._lab.etcd.values()), self._lab.plan.etcd_endpoints)


def _garbage(draw: float) -> tuple[str, str]:
    return _GARBAGE[int(draw * len(_GARBAGE)) % len(_GARBAGE)]


def _key(name: str) -> str:
    return f"{site.PREFIX}/subnets/{name}"


def _read_key(entry: dict[str, str]) -> HeldKey:
    """Read a key; what is no lease keeps its name, so that a check can point at it."""
    name = base64.b64decode(entry["key"]).decode().rpartition("/")[2]
    try:
        value = json.loads(base64.b64decode(entry["value"]))
        public_ip, mac = value["PublicIP"], value["BackendData"]["VtepMAC"]
    except (ValueError, KeyError, TypeError):
        public_ip, mac = "", ""
    return HeldKey(name=name, public_ip=public_ip, mac=mac, lease_id=int(entry.get("lease", 0)))
