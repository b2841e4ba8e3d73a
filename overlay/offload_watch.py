"""Finds out by itself whether checksum offload works below a flannel network, and switches it off where it does not.

A thread of its own, the only one that asks peers and waits for their answers; nothing else ever waits for it. When
and whom to ask and what answers mean is decided in `offload`. Built by `plugin.graph` where TX_CHECKSUM is auto.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from overlay import netstate, offload, supervisor

log = logging.getLogger(__name__)

TICK_S = 1.0


class Network(Protocol):
    """What is looked at: a `node.Node`."""

    prefix: str

    def programmed(self) -> netstate.NetState:
        """The kernel state that was handed over last."""
        ...

    def set_tx_checksum(self, on: bool) -> None:
        """Switch the tunnel devices, now and whenever they are made."""
        ...


class Asker(Protocol):
    """Who asks: `probe.Probe`."""

    def ask(self, tunnel: offload.Tunnel) -> offload.Answers:
        """Raises OSError where this host cannot ask."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One flannel network, for /status. `asked` counts peers, `questions` what was sent to them."""

    prefix: str
    verdict: str
    asked: int
    questions: int
    trouble: str | None


class OffloadWatch:
    """See the module. `networks` are those of the moment; `pick(n)` is a number below n by chance."""

    def __init__(
        self,
        networks: Callable[[], Sequence[Network]],
        asker: Asker,
        pick: Callable[[int], int],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        supervisor_: supervisor.Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor_ or supervisor.Supervisor()
        self._networks = networks
        self._asker = asker
        self._pick = pick
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._memories: dict[str, offload.Memory] = {}
        self._questions: dict[str, int] = {}
        self._troubles: dict[str, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Look until `stop`."""
        while not stop.wait(TICK_S):
            try:
                self.look(stop)
            except Exception as exc:  # noqa: BLE001 - the next look is a fresh one
                self._supervisor.note("offload", exc)
            else:
                self._supervisor.well("offload")

    def look(self, stop: threading.Event) -> None:
        """Ask one peer of each network that is due."""
        networks = self._networks()
        self._forget_others({one.prefix for one in networks})
        for network in networks:
            memory = self._memories.get(network.prefix, offload.Memory())
            if stop.is_set() or not offload.may_ask(memory, self._monotonic()):
                continue
            tunnels = offload.find_tunnels(network.programmed())
            memory, tunnel = offload.choose_tunnel(memory, tunnels, self._monotonic(), self._pick)
            if tunnel is not None:
                verdict = self._examine(network, tunnel, stop)
                _log_verdict(network.prefix, tunnel, verdict, memory.verdict)
                memory = offload.note(memory, tunnel, verdict, self._monotonic())
            with self._lock:
                self._memories[network.prefix] = memory

    def status(self) -> list[Status]:
        """All networks that had a peer so far."""
        with self._lock:
            return [
                Status(
                    prefix=prefix,
                    verdict=memory.verdict.value if memory.verdict else "unknown",
                    asked=len(memory.asked),
                    questions=self._questions.get(prefix, 0),
                    trouble=self._troubles.get(prefix),
                )
                for prefix, memory in sorted(self._memories.items())
            ]

    def _examine(self, network: Network, tunnel: offload.Tunnel, stop: threading.Event) -> offload.Verdict:
        """Ask until there is a verdict, and leave the device switched by it; as it was where that is cut short."""
        before = offload.is_on(network.programmed())
        verdict = offload.Verdict.SILENT
        looks: list[offload.Look] = []
        try:
            while not stop.is_set():
                step = offload.decide(before, looks)
                if isinstance(step, offload.Verdict):
                    verdict = step
                    break
                _switch(network, step.tx_checksum)
                looks.append(offload.Look(tx_checksum=step.tx_checksum, answers=self._ask(network.prefix, tunnel)))
        finally:
            _switch(network, offload.switch_after(before, verdict))
        return verdict

    def _ask(self, prefix: str, tunnel: offload.Tunnel) -> offload.Answers:
        trouble = None
        answers = offload.Answers(kernel=False, crafted=False)
        try:
            answers = self._asker.ask(tunnel)
        except OSError as exc:
            trouble = f"cannot ask {tunnel.peer}: {exc.strerror or exc}"
        with self._lock:
            self._questions[prefix] = self._questions.get(prefix, 0) + 1
            before = self._troubles.pop(prefix, None)
            if trouble is not None:
                self._troubles[prefix] = trouble
        if trouble not in {None, before}:
            log.warning("checksum offload not examined prefix=%s reason=%s", prefix, trouble)
        return answers

    def _forget_others(self, prefixes: set[str]) -> None:
        with self._lock:
            for held in (self._memories, self._questions, self._troubles):
                for prefix in held.keys() - prefixes:
                    del held[prefix]


def _switch(network: Network, on: bool) -> None:
    if offload.is_on(network.programmed()) != on:
        network.set_tx_checksum(on)


def _log_verdict(
    prefix: str, tunnel: offload.Tunnel, verdict: offload.Verdict, before: offload.Verdict | None
) -> None:
    match verdict:
        case offload.Verdict.BROKEN:
            log.warning(
                "checksum offload is broken below this host, switched off prefix=%s peer=%s: only TCP with checksums"
                " computed here gets through; TX_CHECKSUM=off spares the search",
                prefix,
                tunnel.peer,
            )
        case offload.Verdict.SOUND if before is not offload.Verdict.SOUND:
            log.info("checksum offload works prefix=%s peer=%s", prefix, tunnel.peer)
        case offload.Verdict.DOUBTFUL:
            log.info("checksum offload left as it was, it is not to blame prefix=%s peer=%s", prefix, tunnel.peer)
        case _:
            log.debug("peer does not answer prefix=%s peer=%s", prefix, tunnel.peer)
