"""A host of the node tests whose registry is a real etcd, and what the rest of the world sees of its lease."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable

import pytest

from overlay import errors, etcd_client, lease, node, registry_etcd
from tests.overlay import etcd_server, node_host

OWN = node_host.key("10.2.1.0/24")
OURS = node_host.attrs("192.0.2.1", node_host.MAC)
OWN_KEY = node_host.PREFIX + "/subnets/10.2.1.0-24"


def until(true: Callable[[], object], what: str = "", within_s: float = 30.0) -> None:
    """As `node_host.until`, with the patience that a real etcd on a busy machine needs."""
    node_host.until(true, what, within_s)


def lines(caplog: pytest.LogCaptureFixture, start: str) -> list[str]:
    """What was logged and begins so."""
    return [text for record in caplog.records if (text := record.getMessage()).startswith(start)]


class Life:
    """A host in a flannel network whose registry is a real etcd."""

    def __init__(
        self,
        folder: pathlib.Path,
        cluster: etcd_server.Cluster,
        *,
        ttl_s: int = 86_400,
        client: etcd_client.EtcdClient | None = None,
        world: etcd_client.EtcdClient | None = None,
    ) -> None:
        """`client`: what the node itself talks through; `world`: what all the others do."""
        self.cluster = cluster
        self.client = client or cluster.client(timeout_s=4.0)
        self.registry = registry_etcd.EtcdRegistry(self.client, node_host.PREFIX, ttl_s=ttl_s)
        self.registry.create_config(node_host.CONFIG)
        folder.mkdir(exist_ok=True)
        self.host = node_host.NodeHost(folder, self.registry)  # type: ignore[arg-type]  # any registry will do
        self.host.in_use = True
        self.host.timing = dataclasses.replace(
            node_host.FAST, beat_s=0.5, retry_first_s=0.1, retry_cap_s=0.5, doubt_s=0.3, heal_first_s=3600
        )
        # what the rest of the world does, past the node's own client
        self.world_client = world or cluster.client(timeout_s=4.0)
        self.world = registry_etcd.EtcdRegistry(self.world_client, node_host.PREFIX, ttl_s=ttl_s)

    def close(self) -> None:
        self.host.close()
        self.client.close()
        self.world_client.close()

    def join(self) -> None:
        one = self.host.start()
        until(lambda: one.status().confirmed and one.status().followed, "joined and followed")
        self.held = one.held()

    @property
    def node(self) -> node.Node:
        return self.host.nodes[-1]

    def own(self) -> lease.Lease | None:
        """The lease under our key, None where there is none."""
        return self.world.read_leases().leases.get(OWN)

    def events(self) -> dict[str, int]:
        """What was counted at all."""
        return {kind: count for kind, count in self.node.status().events.items() if count}

    def safe(self) -> None:
        """Our key says what we publish, the node is sure of it, and the subnet is the one it always was."""

        def confirmed() -> bool:
            with contextlib.suppress(errors.RegistryUnavailable):  # we ask over a connection of our own
                found = self.own()
                return found is not None and found.attrs == OURS and self.node.status().confirmed
            return False

        until(confirmed, "our key in etcd, and confirmed")
        assert self.node.held() == self.held
        assert self.node.status().conflict is None
