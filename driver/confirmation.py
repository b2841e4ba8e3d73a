"""Which engine's word counts: things are taken away only on the word of the engine that has this plugin.

The Engine API may be another daemon's: DOCKER_HOST, a second dockerd, podman's socket. That such a one does not list
a network says nothing. Owns the table with the id of the engine that was confirmed last.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable

from driver import engine, errors, names
from overlay import statefile

log = logging.getLogger(__name__)

SCHEMA = statefile.Schema(room="engine", steps=("CREATE TABLE engine (id TEXT NOT NULL)",))

LOCAL_ID_LENGTH = 64
"""Of a network's id that one engine made up at random. Swarm's are shorter, and all engines of a swarm have them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an engine lists. Unless `is_confirmed`, that a network or endpoint is missing in it says nothing."""

    networks: tuple[engine.EngineNetwork, ...]
    is_confirmed: bool


class ConfirmedEngine:
    """The engine behind an address, unless it is another one than this plugin's. For one thread, as `docker` is."""

    def __init__(self, docker: engine.Engine, state: statefile.StateFile) -> None:
        self._docker = docker
        self._state = state

    def look(self, known: Collection[names.NetworkId]) -> Look:
        """What the engine has, given the networks `known` here. Raises EngineError, also where it is another one."""
        identity = self._docker.identify()
        networks = tuple(self._docker.list_networks(known))
        confirmed = self._load()
        if is_own(identity, confirmed, (net.id for net in networks if net.id in known)):
            if identity.id != confirmed:
                self._save(identity.id, confirmed)
            return Look(networks=networks, is_confirmed=True)
        _require_unknown(identity, confirmed, known)
        return Look(networks=networks, is_confirmed=False)

    def create_network(self, name: str, known: Collection[names.NetworkId]) -> None:
        """See `engine.Engine.create_network`. Raises EngineError, also where it is another engine."""
        identity, confirmed = self._docker.identify(), self._load()
        if not is_own(identity, confirmed, ()):
            _require_unknown(identity, confirmed, known)
        self._docker.create_network(name)

    def _load(self) -> str:
        with self._state.read() as tx:
            rows = tx.rows("SELECT id FROM engine")
        return str(rows[0][0]) if rows else ""

    def _save(self, engine_id: str, before: str) -> None:
        """A full disk is no reason not to look: the next look saves it."""
        try:
            with self._state.write() as tx:
                tx.run("DELETE FROM engine")
                tx.run("INSERT INTO engine VALUES (?)", (engine_id,))
        except statefile.StateFileError as exc:
            log.warning("engine confirmed, and not saved yet id=%s: %s", engine_id, exc)
        else:
            log.info("engine confirmed id=%s was=%s", engine_id, before or "none")


def is_own(identity: engine.Identity, confirmed: str, listed: Iterable[names.NetworkId]) -> bool:
    """Whether an engine is the one that has this plugin. `confirmed`: the id of the last one that was, or "".

    `listed` are the networks known here that it lists. An engine may get another id (its key was deleted, an
    upgrade); no other engine lists an id of 256 random bits.
    """
    if identity.has_plugin is not None:
        return identity.has_plugin
    return (identity.id == confirmed != "") or any(len(network_id) == LOCAL_ID_LENGTH for network_id in listed)


def _require_unknown(identity: engine.Identity, confirmed: str, known: Collection[names.NetworkId]) -> None:
    """Raise EngineError where an engine is known to be another one.

    Where no network is `known` here there is nothing to lose, and the id may have changed: it is like the first one.
    """
    if identity.has_plugin is False:
        raise errors.EngineError(
            f"the engine {identity.id or 'without an id'} is another one: this plugin is not among its plugins; set "
            "DOCKER_HOST to the address of the engine that runs this plugin"
        )
    if confirmed and known:
        raise errors.EngineError(
            f"the engine {identity.id or 'without an id'} is another one: it lists none of the networks known here, "
            f"which the engine {confirmed} had; set DOCKER_HOST to the address of that engine; if Docker was "
            "installed anew and they are gone, stop flannelpy, delete its state file, and start it again"
        )
