"""The errors of this host's flannel node.

    OverlayError                    status 500
    ├── SettingsError               what the operator configured cannot work
    │   ├── ConfigMissing           no network config in the registry
    │   ├── ConfigInvalid           the network config breaks one of flannel's rules
    │   ├── UnderlayError           no usable interface or address on this host
    │   ├── FlanneldRunning         a flanneld on this host has the same lease or device
    │   └── AddressTaken            a link that is not ours has an address of our subnet
    ├── RegistryError
    │   ├── RegistryUnavailable     503: no answer in time; the same call may work later
    │   ├── RegistryDenied          credentials or certificate refused
    │   ├── SubnetTaken             the compare-and-set to create a lease lost
    │   └── LeaseLost               our key is gone, or is not the one we wrote
    ├── OutOfSubnets                every subnet of the network is leased
    ├── NotReady                    503: no lease within the time a handler may wait
    │   └── OriginUnknown           whose the saved subnet is must be watched first
    ├── CodecError                  a key or value that is not flannel's
    ├── InUse                       409: what is to be removed serves containers
    ├── Uninstalled                 503: everything of ours was removed from this host
    ├── HostOccupied                503: another plugin of ours serves this host
    ├── KernelTooOld                nothing of it can work on this host
    └── KernelError                 the kernel refused one or more changes
        └── NameTaken               a link that is not ours has a name that one of ours was to have

`status` is the HTTP status that `plugin` answers with; nothing below `plugin` knows HTTP otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class OverlayError(Exception):
    """Base of every error this package raises on purpose."""

    status: ClassVar[int] = 500


class SettingsError(OverlayError):
    """What the operator configured cannot work; the message says what to change."""


class ConfigMissing(SettingsError):
    """The registry holds no network config."""


class ConfigInvalid(SettingsError):
    """The network config breaks one of flannel's rules."""


class UnderlayError(SettingsError):
    """This host has no interface or address that fits the settings."""


class FlanneldRunning(SettingsError):
    """A flanneld runs on this host that would fight with us for the lease or the device."""


class AddressTaken(SettingsError):
    """A link that is not ours has an address of the subnet that Docker networks are to get."""


class RegistryError(OverlayError):
    """Base of what a registry adapter raises."""


class RegistryUnavailable(RegistryError):
    """The registry gave no answer in time; the same call may work later."""

    status = 503


class RegistryDenied(RegistryError):
    """The registry refused our credentials or certificate."""


class SubnetTaken(RegistryError):
    """Another node created this key first."""


class LeaseLost(RegistryError):
    """The key of our lease is gone or was written by somebody else."""


class OutOfSubnets(OverlayError):
    """Every subnet of the network is leased: `reason`. The message says by whom and until when: `holders`."""

    def __init__(self, reason: str, holders: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {holders}" if holders else reason)


class NotReady(OverlayError):
    """This host holds no lease yet and the time to wait for it is over."""

    status = 503


class OriginUnknown(NotReady):
    """The state file may be a copy of another machine's. Units: `left_s` seconds until that is known."""

    def __init__(self, message: str, left_s: float) -> None:
        super().__init__(message)
        self.left_s = left_s


class CodecError(OverlayError):
    """A key or value under the registry's subnets that flannel could not have written."""


class InUse(OverlayError):
    """What is to be removed serves containers; the message says what must go first."""

    status = 409


class Uninstalled(OverlayError):
    """Everything of ours was removed from this host, and nothing comes back until the plugin is started again."""

    status = 503


class HostOccupied(OverlayError):
    """Another plugin of ours serves this host: two would undo each other's work."""

    status = 503


class KernelTooOld(OverlayError):
    """This host's kernel lacks what everything here needs."""


class KernelError(OverlayError):
    """The kernel refused changes. `failures` has one line for each, as an operator would type the change."""

    def __init__(self, failures: Sequence[str]) -> None:
        self.failures = tuple(failures)
        more = f" (and {len(failures) - 3} more)" if len(failures) > 3 else ""
        super().__init__("; ".join(self.failures[:3]) + more)


class NameTaken(KernelError):
    """A link that is not ours has a name that one of ours was to have: it is left alone."""
