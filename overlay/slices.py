"""The desired state of the whole host as the sum of its owners' slices.

Pure bookkeeping, used by `reconciler` alone, which locks around every call. An owner (a node, a network, an endpoint)
says what it wants; of two owners that want different objects under one key the one that spoke last has its way.
"""

from __future__ import annotations

from collections.abc import Iterable

from overlay import diff, netstate

_TUNNELS = (netstate.VxlanLink, netstate.BridgeLink)


class Slices:
    """What each owner wants, and what of it was applied as far as we know. Not safe between threads."""

    def __init__(self) -> None:
        self._wanted: dict[str, netstate.NetState] = {}
        self._applied: dict[str, netstate.NetState] = {}
        self._by_key: dict[netstate.Key, dict[str, netstate.KernelObject]] = {}
        self._touched: set[netstate.Key] = set()  # asked for and not written yet
        self._written: set[netstate.Key] = set()  # by owners, since `take_touched`
        self._writing: set[str] = set()
        self._tunnels_changed = False

    def put(self, owner: str, state: netstate.NetState) -> netstate.NetState:
        """Replace an owner's slice, which the owner will now write and then `settle`; what of it is applied."""
        before = self._wanted.get(owner, netstate.EMPTY)
        for obj in before - state:
            self._forget_object(owner, obj)
        for obj in state - before:
            key = netstate.key_of(obj)
            holders = self._by_key.setdefault(key, {})
            holders.pop(owner, None)
            holders[owner] = obj
            self._touch(key, obj)
        self._wanted[owner] = state
        self._writing.add(owner)
        return self._applied.get(owner, netstate.EMPTY)

    def drop(self, owner: str) -> netstate.NetState:
        """Forget an owner; returns what of its slice is applied."""
        self._writing.discard(owner)
        for obj in self._wanted.pop(owner, netstate.EMPTY):
            self._forget_object(owner, obj)
        return self._applied.pop(owner, netstate.EMPTY)

    def settle(self, owner: str, applied: netstate.NetState, keys: Iterable[netstate.Key]) -> None:
        """Changes of an owner's slice have reached the kernel, under these keys; `applied` is what is there now."""
        self._writing.discard(owner)
        written = set(keys)
        self._written |= written
        self._touched -= written
        if owner in self._wanted:
            self._applied[owner] = applied

    def whole(self) -> netstate.NetState:
        """The desired state of the host."""
        return frozenset(_last(holders) for holders in self._by_key.values())

    def sysctls(self) -> netstate.NetState:
        """The kernel parameters among them."""
        return frozenset(_last(holders) for key, holders in self._by_key.items() if key[0] == "sysctl")

    def still_asks_for(self, op: netstate.Op) -> bool:
        """Whether a change planned earlier is still one towards the desired state."""
        match op:
            case netstate.Remove(obj=obj):
                return netstate.key_of(obj) not in self._by_key
            case netstate.Add(obj=obj) | netstate.Change(new=obj):
                holders = self._by_key.get(netstate.key_of(obj))
                return holders is not None and _last(holders) == obj

    def is_being_written(self, op: netstate.Op) -> bool:
        """Whether the owner who wants this is writing its slice at the moment, and so perhaps just this."""
        holders = self._by_key.get(netstate.key_of(diff.target_of(op)))
        return holders is not None and next(reversed(holders)) in self._writing

    def touch(self, keys: Iterable[netstate.Key]) -> None:
        """Whatever changes under these keys next is no repair."""
        self._touched.update(keys)

    def take_touched(self) -> set[netstate.Key]:
        """The keys that callers asked to change, as far as nobody has written it: what does so is no repair."""
        touched, self._touched = self._touched, set()
        self._written = set()
        return touched

    def was_touched(self, key: netstate.Key) -> bool:
        """Whether a caller asked for a change of this key since `take_touched`, or wrote it."""
        return key in self._touched or key in self._written

    def owners(self) -> dict[str, int]:
        """How many objects each owner wants."""
        return {owner: len(state) for owner, state in self._wanted.items()}

    def take_tunnels(self) -> netstate.NetState | None:
        """The tunnels and bridges among them; None where no such was declared or dropped since the last call."""
        if not self._tunnels_changed:
            return None
        self._tunnels_changed = False
        return frozenset(last for holders in self._by_key.values() if isinstance(last := _last(holders), _TUNNELS))

    def _touch(self, key: netstate.Key, obj: netstate.KernelObject) -> None:
        self._touched.add(key)
        self._tunnels_changed = self._tunnels_changed or isinstance(obj, _TUNNELS)

    def _forget_object(self, owner: str, obj: netstate.KernelObject) -> None:
        key = netstate.key_of(obj)
        self._touch(key, obj)
        holders = self._by_key[key]
        del holders[owner]
        if not holders:
            del self._by_key[key]


def _last(holders: dict[str, netstate.KernelObject]) -> netstate.KernelObject:
    return next(reversed(holders.values()))
