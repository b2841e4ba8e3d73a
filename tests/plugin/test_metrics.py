from __future__ import annotations

import socket
import urllib.request

import pytest

from overlay import supervisor
from plugin import metrics


def sample(prefix: str, value: float) -> metrics.Sample:
    return "flannelpy_peers", "Peers known.", {"prefix": prefix}, value


def test_gauges_are_read_at_every_scrape() -> None:
    values = [1.0]
    told = metrics.Metrics(lambda: [sample("/a", values[0]), sample("/b", 7.0)])
    assert told.render().decode().splitlines()[-4:] == [
        "# HELP flannelpy_peers Peers known.",
        "# TYPE flannelpy_peers gauge",
        'flannelpy_peers{prefix="/a"} 1.0',
        'flannelpy_peers{prefix="/b"} 7.0',
    ]
    values[0] = 2.0
    assert 'flannelpy_peers{prefix="/a"} 2.0' in told.render().decode()


def test_a_name_that_ends_in_total_is_a_counter() -> None:
    told = metrics.Metrics(lambda: [("flannelpy_events_total", "What happened.", {"event": "key_gone"}, 3.0)])
    assert told.render().decode().splitlines()[-3:] == [
        "# HELP flannelpy_events_total What happened.",
        "# TYPE flannelpy_events_total counter",
        'flannelpy_events_total{event="key_gone"} 3.0',
    ]


def test_calls_are_a_histogram_by_method_and_status() -> None:
    told = metrics.Metrics(list)
    told.observe_call("NetworkDriver.Join", 0.003, 200)
    told.observe_call("NetworkDriver.Join", 30.0, 503)
    lines = told.render().decode().splitlines()
    assert 'flannelpy_call_seconds_bucket{le="0.0025",method="NetworkDriver.Join",status="200"} 0.0' in lines
    assert 'flannelpy_call_seconds_bucket{le="0.005",method="NetworkDriver.Join",status="200"} 1.0' in lines
    assert 'flannelpy_call_seconds_bucket{le="20.0",method="NetworkDriver.Join",status="503"} 0.0' in lines
    assert 'flannelpy_call_seconds_sum{method="NetworkDriver.Join",status="503"} 30.0' in lines


def test_a_label_can_hold_any_text() -> None:
    told = metrics.Metrics(lambda: [sample('/"quoted"\\\n', 1.0)])
    assert r'flannelpy_peers{prefix="/\"quoted\"\\\n"} 1.0' in told.render().decode()


def test_two_plugins_in_one_process_do_not_meet() -> None:
    first, second = metrics.Metrics(list), metrics.Metrics(list)
    first.observe_call("NetworkDriver.Join", 0.1, 200)
    assert b"NetworkDriver.Join" not in second.render()


def test_metrics_are_served_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            metrics.Metrics(list).serve("127.0.0.1", port, supervisor.Supervisor())
    told = metrics.Metrics(lambda: [sample("/a", 3.0)])
    told.serve("127.0.0.1", port, supervisor.Supervisor())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        assert b'flannelpy_peers{prefix="/a"} 3.0' in response.read()
    told.close()
