"""Whether the hardware below finishes the checksums of the tunnel's packets: whom to ask, when, what answers mean.

Pure. Called by `offload_watch`. The fault looks like this: pings pass and TCP does not, since the kernel leaves the
checksum of TCP to hardware that never finishes it. So one TCP segment goes to a peer twice, once with a checksum left
to the hardware and once with one computed here. Only where the second alone is answered is the hardware suspected,
and only where switching it off cures that is it found guilty. A firewall treats both alike: it casts no suspicion.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence

from overlay import netstate

FIRST_S = 3.0
"""From the first peer to the first question: the peer's host has to learn of us as well. Units here: seconds."""

GAP_S = 30.0
SELDOM_S = 6 * 3600.0
HANDFUL = 5
"""So many peers are asked soon after they appear; later ones only in their turn."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """A way to a peer: the addresses of our own tunnel device and of its."""

    own: netstate.IPAddress
    peer: netstate.IPAddress


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came back from a peer: to the kernel's own TCP, and to the segment whose checksum was computed here.

    The second is asked for only where the first stays away.
    """

    kernel: bool
    crafted: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One question to a peer, and how the device was switched meanwhile."""

    tx_checksum: bool
    answers: Answers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Switch the device so, and look."""

    tx_checksum: bool


class Verdict(enum.Enum):
    """What an examination came to."""

    SOUND = "sound"
    BROKEN = "broken"
    DOUBTFUL = "doubtful"
    """The kernel's TCP is not answered with and without offload."""
    SILENT = "silent"
    """The peer answers nothing: nothing was learned."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is known of one flannel network. `last_s` and `next_s` are times of `now`."""

    verdict: Verdict | None = None
    asked: frozenset[netstate.IPAddress] = frozenset()
    pause_s: float = GAP_S
    last_s: float = 0.0
    next_s: float | None = None


def find_tunnels(state: netstate.NetState) -> list[Tunnel]:
    """The ways to all peers that are reached through a tunnel device, of both families."""
    devices = {obj.name for obj in state if isinstance(obj, netstate.VxlanLink)}
    own = {obj.link: obj.interface.ip for obj in state if isinstance(obj, netstate.Address) and obj.link in devices}
    return [
        Tunnel(own=own[obj.link], peer=obj.ip)
        for obj in state
        if isinstance(obj, netstate.Neighbour) and obj.link in own
    ]


def is_on(state: netstate.NetState) -> bool:
    """Whether the tunnel devices leave checksums to the hardware."""
    return all(obj.tx_checksum for obj in state if isinstance(obj, netstate.VxlanLink))


def may_ask(memory: Memory, now: float) -> bool:
    """Whether it is worth while to look for somebody to ask: with thousands of peers that takes its time.

    What was found broken is not asked about again: with the offload off there is nothing to see.
    """
    if memory.verdict is Verdict.BROKEN:
        return False
    return memory.next_s is None or now >= _earliest(memory, fresh=True)


def choose_tunnel(
    memory: Memory, tunnels: Sequence[Tunnel], now: float, pick: Callable[[int], int]
) -> tuple[Memory, Tunnel | None]:
    """Whom to ask, where `may_ask`. New peers come first, of the family that was asked less; `pick(n)` is below n."""
    if not tunnels:
        return memory, None
    if memory.next_s is None:  # the first peer is there
        return dataclasses.replace(memory, next_s=now + FIRST_S), None
    fresh = [tunnel for tunnel in tunnels if tunnel.peer not in memory.asked]
    if now < _earliest(memory, fresh=bool(fresh)):
        return memory, None
    candidates = fresh or tunnels
    times = {family: sum(peer.version == family for peer in memory.asked) for family in (4, 6)}
    least = min(times[tunnel.peer.version] for tunnel in candidates)
    chosen = sorted(
        (tunnel for tunnel in candidates if times[tunnel.peer.version] == least), key=lambda one: int(one.peer)
    )
    return memory, chosen[pick(len(chosen))]


def decide(before: bool, looks: Sequence[Look]) -> Ask | Verdict:
    """The next question of an examination that found the device switched to `before`, or what it comes to."""
    if not looks:
        return Ask(tx_checksum=before)
    last = looks[-1]
    if before:
        return _decide_on(last, len(looks))
    return _decide_off(last)


def switch_after(before: bool, verdict: Verdict) -> bool:
    """How the device is to be switched after an examination that found it switched to `before`."""
    match verdict:
        case Verdict.SOUND:
            return True
        case Verdict.BROKEN:
            return False
        case Verdict.DOUBTFUL | Verdict.SILENT:
            return before


def note(memory: Memory, tunnel: Tunnel, verdict: Verdict, now: float) -> Memory:
    """What is known after an examination. A peer that was silent is asked again soon, then ever later."""
    pause_s = memory.pause_s if verdict is Verdict.SILENT else SELDOM_S
    learned = memory.verdict if verdict is Verdict.SILENT and memory.verdict else verdict
    return Memory(
        verdict=learned,
        asked=memory.asked | {tunnel.peer},
        pause_s=min(2 * pause_s, SELDOM_S),
        last_s=now,
        next_s=now + pause_s,
    )


def _earliest(memory: Memory, *, fresh: bool) -> float:
    """When to ask again. `fresh`: there is a peer that was never asked."""
    due = memory.next_s or 0.0
    return min(due, memory.last_s + GAP_S) if fresh and 0 < len(memory.asked) < HANDFUL else due


def _decide_on(last: Look, count: int) -> Ask | Verdict:
    """Suspected twice, lest one lost packet switch anything; then whether the offload is to blame."""
    if not last.tx_checksum:
        return Verdict.BROKEN if last.answers.kernel else Verdict.DOUBTFUL
    if last.answers.kernel:
        return Verdict.SOUND
    if not last.answers.crafted:
        return Verdict.SILENT
    return Ask(tx_checksum=count < 2)


def _decide_off(last: Look) -> Ask | Verdict:
    """Off already, by somebody's hand or by the run before this one: on only for a peer that is known to answer."""
    if not last.tx_checksum:
        if last.answers.kernel:
            return Ask(tx_checksum=True)
        return Verdict.DOUBTFUL if last.answers.crafted else Verdict.SILENT
    if last.answers.kernel:
        return Verdict.SOUND
    return Verdict.BROKEN if last.answers.crafted else Verdict.SILENT
