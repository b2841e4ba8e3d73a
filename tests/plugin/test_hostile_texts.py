"""No text of a request reaches a shell, a tool, the kernel or a row: the plugin in memory, over recording tools."""

from __future__ import annotations

import ast
import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence

import pytest

from overlay import firewall_exec
from plugin import server
from tests.plugin import hostile, memory_plugin, sessions
from tests.plugin.test_hostile import SHM, check_answer, no_tracebacks, play

ROOT = pathlib.Path(server.__file__).parent.parent

TOOLS = ("nft", "iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save", "ip6tables-nft-restore")
RECORDER = """#!/bin/sh
{{ printf '%s\\n' "${{0##*/}}" "$@"; [ "${{0%-save}}" != "$0" ] || /bin/cat; }} >>{record}
case "$0 $*" in
*-save*) printf '*filter\\n:FORWARD DROP [0:0]\\n:DOCKER-USER - [0:0]\\n-A FORWARD -j DOCKER-USER\\nCOMMIT\\n' ;;
*list*FORWARD*) : ;;
*list*) echo 'Error: No such file or directory' >&2; exit 1 ;;
esac
"""
"""Stands for the tools of the packet filter: writes down what it is told, and shows a filter table of Docker's."""


class RecordingPlugin:
    """A plugin whose packet filter is the real one, over tools that write down what they are told."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.record = directory / "told"
        self.record.touch()
        tools = directory / "tools"
        tools.mkdir()
        for name in TOOLS:
            (tools / name).write_text(RECORDER.format(record=self.record))
            (tools / name).chmod(0o755)
        self.plugin = memory_plugin.MemoryPlugin(directory, saved=True, dual=True)
        self.firewall = firewall_exec.FirewallExec(lockfile=str(directory / "lock"), path=str(tools))
        self.client = self.plugin.client()

    def reached(self, *, rows: bool = True) -> str:
        """All that a text of a request could have become: kernel objects, rows, and what the tools were told."""
        plugin = self.plugin
        self.firewall.ensure(plugin.firewall.plan)
        wanted = plugin.reconciler._slices.whole()
        seen = (wanted, plugin.kernel.observe(wanted), plugin.driver.networks(), plugin.driver.endpoints())
        return f"{seen} {plugin.ipam.usage()} {plugin.rows() if rows else ''} {self.record.read_text()}"


ALLOWED = re.compile(r"[a-zA-Z0-9 \t\n_.:,;/|{}()\"'=!<>@#*\[\]&+-]*")


@contextlib.contextmanager
def recording(calls: Sequence[sessions.Call]) -> Iterator[RecordingPlugin]:
    """A host on which these calls were made."""
    with tempfile.TemporaryDirectory(dir=SHM) as directory, no_tracebacks():
        host = RecordingPlugin(pathlib.Path(directory))
        try:
            for call in calls:
                play(host.client, call)
            yield host
        finally:
            host.plugin.close()


def spoiled(call: sessions.Call) -> Iterator[tuple[tuple[str | int, ...], str, hostile.Request]]:
    for path in hostile.places(call.body):
        text = hostile.at(call.body, path)
        for trick in hostile.tricks(text) if isinstance(text, str) else ():
            if path[-1] not in sessions.CHOSEN or not trick.isalnum() or len(trick) > 13:
                body = hostile.put(call.body, path, trick)
                yield path, trick, hostile.Request(verb="POST", path=f"/{call.method}", data=hostile.encode(body))


SPOILED = [
    pytest.param(calls, number, id=f"{session}-{call.method}")
    for session, calls in sessions.SESSIONS.items()
    for number, call in enumerate(calls)
    if session == "auto" or call.method in sessions.OWN
]


@pytest.mark.parametrize(("calls", "number"), SPOILED)
def test_no_text_of_a_request_reaches_a_tool_the_kernel_or_a_row(calls: Sequence[sessions.Call], number: int) -> None:
    """Each text of each call, spoiled in every way; the calls before it were right, and those after it follow.

    What is taken is followed by another host, or what comes after it would meet what it made.
    """
    left = list(spoiled(calls[number]))
    while left:
        with recording(calls[:number]) as host:
            before = host.plugin.state_of_all()
            while left and host.plugin.state_of_all() == before:
                path, trick, request = left.pop()
                check_answer(request, host.client.post(request.path, data=request.data))
                rows = path[-1] not in sessions.NAMED  # those are kept: by them a container is known again
                assert hostile.MARK not in host.reached(rows=rows).lower(), (path, trick[:80])
            for right in calls[number:]:
                play(host.client, right)
            host.reached()
            assert ALLOWED.fullmatch(host.record.read_text())


TOLD = {
    "auto": ("fp-4d5d70de7705", "fph1a2299da1bc9", "10.2.1.0/24", "fd00:2:0:1::/64", "iptables-nft-restore"),
    "native": (
        *("blue0", "net.ipv4.conf.blue0.route_localnet", "iface_prefix='net'", "tcp . 8080 : 10.2.1.2 . 80"),
        *("192.0.2.1 . udp . 5300 : 10.2.1.2 . 53", "2001:db8::1 . tcp . 8443 : fd00:2:0:1::2 . 443"),
        "udp . 32768 : fd00:2:0:1::2 . 53",
    ),
}


@pytest.mark.parametrize("session", sessions.SESSIONS)
def test_the_tools_are_really_told_of_a_network(tmp_path: pathlib.Path, session: str) -> None:
    host = RecordingPlugin(tmp_path)
    for call in sessions.up_to(session, "NetworkDriver.ProgramExternalConnectivity"):
        play(host.client, call)
    told = host.reached()
    assert [text for text in TOLD[session] if text not in told] == []
    host.plugin.close()


SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "spawnl", "spawnv", "execl", "execvp", "eval", "exec"}


@pytest.mark.parametrize("room", ["driver", "ipam", "overlay", "plugin"])
def test_the_product_calls_no_shell(room: str) -> None:
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert called not in SHELLS, f"{file}:{node.lineno}: {called}"
                assert all(word.arg != "shell" for word in node.keywords), f"{file}:{node.lineno}: shell="
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert "subprocess" not in names or file.name == "firewall_tools.py", f"{file}:{node.lineno}"
                assert not names & {"pty", "commands", "shlex"}, f"{file}:{node.lineno}"
