"""The port through which `ipam` and `driver` see this host's leases. Adapter: `overlay.nodes.Nodes`."""

from __future__ import annotations

from typing import Protocol

from overlay import lease


class Holdings(Protocol):
    """This host's leases, by the registry prefix of their flannel network."""

    def wait(self, prefix: str | None, timeout_s: float) -> lease.HeldSubnet:
        """The lease under `prefix` (None: the default one), once it is held or known from the state file.

        Joins that flannel network if this host is not in it yet. Raises NotReady after `timeout_s`, with what is
        missing, and SettingsError at once where waiting cannot help.
        """
        ...

    def held(self) -> list[lease.HeldSubnet]:
        """All leases known now, the default one first. Never waits."""
        ...

    def holds(self, held: lease.HeldSubnet) -> bool:
        """Whether a lease that `wait` has told is still this host's. Never waits, and takes no lock for long."""
        ...

    def leave(self, prefix: str) -> None:
        """Nothing uses `prefix` any more: give its subnet back. The default prefix is kept."""
        ...
