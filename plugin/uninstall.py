"""Everything of ours off this host, before `docker plugin rm`, which leaves links, routes and rules behind.

Only where nothing uses it any more, by our rows and by Docker's word. Caller: `plugin.app`, which refuses every call
from then on. What stays: `ip_forward` and IPv6 forwarding, which Docker's own networks need as well, and
`accept_ra=2` where the host would lose its default route without it.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import time
from typing import TYPE_CHECKING

from overlay import errors
from plugin import host_lock

if TYPE_CHECKING:
    from plugin import graph

log = logging.getLogger(__name__)

DOCKER_WAIT_S, LOOK_S = 10.0, 0.1
"""For Docker's first word after a start."""

END_S = 10.0
"""For each background thread: a look at Docker or a pass that is under way."""


def require_unused(built: graph.Graph) -> None:
    """Raises InUse where a Docker network, or a container, is there, and NotReady where that is not known in time."""
    deadline = time.monotonic() + DOCKER_WAIT_S
    while not _is_all_known(built) and time.monotonic() < deadline:
        built.halt.wait(LOOK_S)
    networks = [built.watch.network_of(net.pool) for net in built.driver.networks()]
    if networks:
        raise errors.InUse(f"not uninstalled: networks {', '.join(sorted(networks))}; docker network rm them first")
    pools = [str(usage.cidr) for usage in built.ipam.usage()]
    if pools:
        raise errors.InUse(
            f"not uninstalled: pools {', '.join(sorted(pools))} belong to networks that are being made"
        )
    if refused := built.watch.refused:
        lines = "; ".join(f"{what}: {why}" for what, why in sorted(refused.items()))
        raise errors.InUse(f"not uninstalled: {lines}; docker network rm it first")
    if not _is_all_known(built):
        raise errors.NotReady("not uninstalled: Docker has not told yet which networks and containers it has")
    built.reconciler.open_gate()


def _is_all_known(built: graph.Graph) -> bool:
    """Whether no container uses anything of an earlier life.

    Where this is no managed plugin an engine without a network of ours confirms nothing (see `driver.confirmation`):
    it lists none, and then containers' links tell whether another one has.
    """
    if built.reconciler.gate_is_open:
        return True
    with contextlib.suppress(errors.KernelError):
        return built.watch.lists_none and not built.reconciler.has_container_links()
    return False


def remove_all(built: graph.Graph) -> list[str]:
    """End the background and remove everything; a line for each thing that is left. Twice is safe.

    Waits for etcd, a minute at most for each flannel network.
    """
    built.halt.set()
    for thread in built.threads:
        thread.join(END_S)
    left = [f"thread {thread.name} has not ended" for thread in built.threads if thread.is_alive()]
    prefixes = built.nodes.leave_all()
    left += [
        f"lease of {prefix}: not given back (the log says why); it ends by itself within a day" for prefix in prefixes
    ]
    built.reconciler.declare_firewall(frozenset())
    built.reconciler.declare_guard(frozenset())
    built.reconciler.run_pass()
    left += built.reconciler.last_errors
    with contextlib.suppress(OSError):
        (pathlib.Path(built.settings.run_dir) / host_lock.LOCK_NAME).unlink()
    for line in left:
        log.warning("uninstalled but for: %s", line)
    log.info("uninstalled")
    return left
