"""A build of the plugin that takes orders where to be killed, and the giving of them: see `overlay.faults`."""

from __future__ import annotations

import dataclasses
import json
import threading

from lab import chaos_hosts, plugin_image, site
from overlay import faults

ENDS_S = 60.0
"""A call is repeated for 15 s at the most, and a start or an end has several."""


def install(pair, solo):
    """Install that build."""
    variables = {faults.VARIABLE: "/host/run/faults"}
    image = plugin_image.push(pair.lab, plugin_image.build(), tag="faults", by=solo.host, env=variables)
    dataclasses.replace(solo, image=image).install(ETCD_ENDPOINTS=solo.lab.etcd_endpoints)
    site.wait_ready(solo.host)
    (solo.host.root / "run/faults").mkdir(exist_ok=True)


def strike(host, words, victim, *, point, handler=""):
    """Hold the plugin there while docker does this, kill its "worker" or "master", let docker end; what it said."""
    orders = host.root / "run/faults"
    for name in ("held", "order"):
        (orders / name).unlink(missing_ok=True)
    order = faults.Order(point=point, handler=handler, action="hold")
    (orders / "order.new").write_text(json.dumps(dataclasses.asdict(order)))
    (orders / "order.new").rename(orders / "order")
    said = []
    thread = threading.Thread(target=lambda: said.append(host.try_docker(*words, timeout_s=ENDS_S)))
    thread.start()
    site.wait_for(f"held: {handler} {point}", (orders / "held").exists, 20)
    master, worker = chaos_hosts.plugin_pids(host)
    host.exec(["kill", "-9", worker if victim == "worker" else master])
    thread.join(ENDS_S + 10)
    assert said, f"{words}: docker did not end"
    (orders / "held").unlink()
    return said[0]


def slices_of(host):
    """Quarters of the host's lease."""
    (told,) = site.status(host)["flannel_networks"]
    lease, _, length = told["subnet"].partition("/")
    assert length == "24"
    head = lease.rpartition(".")[0]
    return [f"{head}.{last}/26" for last in (0, 64, 128, 192)]
