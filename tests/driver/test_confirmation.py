"""Whose word counts: an engine that is not this plugin's takes nothing away."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection, Iterator

import pytest

from driver import confirmation, engine, errors, names
from overlay import statefile

LOCAL, OTHER = (names.NetworkId(digit * 64) for digit in "ab")
SWARM = names.NetworkId("y6x4k3l1q0p9z8w7v5u2t1s0r")
NONE = names.NetworkId("0" * 64)


@dataclasses.dataclass
class Docker:
    """An engine of a few lines. Implements `engine.Engine`."""

    identity: engine.Identity
    ids: tuple[names.NetworkId, ...] = (NONE,)
    created: list[str] = dataclasses.field(default_factory=list)

    def identify(self) -> engine.Identity:
        return self.identity

    def list_networks(self, known: Collection[names.NetworkId]) -> list[engine.EngineNetwork]:
        return [engine.EngineNetwork(id=one, name="", ours=one in known) for one in self.ids]

    def create_network(self, name: str) -> None:
        self.created.append(name)


@pytest.fixture
def state(tmp_path: pathlib.Path) -> Iterator[statefile.StateFile]:
    one = statefile.StateFile(tmp_path / "state.db", [confirmation.SCHEMA])
    yield one
    one.close()


def look(
    state: statefile.StateFile,
    identity: engine.Identity,
    *ids: names.NetworkId,
    known: tuple[names.NetworkId, ...] = (LOCAL, OTHER, SWARM),
) -> bool:
    """Whether that engine's word counts, as a new process finds it."""
    docker = Docker(identity, (NONE, *ids))
    return confirmation.ConfirmedEngine(docker, state).look(set(known)).is_confirmed


ONE, TWO = engine.Identity(id="ONE"), engine.Identity(id="TWO")


def test_an_engine_that_lists_nothing_of_ours_is_not_confirmed(state: statefile.StateFile) -> None:
    assert not look(state, ONE)
    assert not look(state, ONE, known=())


def test_an_engine_that_listed_a_network_of_ours_stays_confirmed_without_it(state: statefile.StateFile) -> None:
    assert look(state, ONE, LOCAL)
    assert look(state, ONE)


def test_after_that_another_engine_is_an_error_that_says_what_to_do(state: statefile.StateFile) -> None:
    look(state, ONE, LOCAL)
    with pytest.raises(errors.EngineError) as caught:
        look(state, TWO)
    assert str(caught.value) == (
        "the engine TWO is another one: it lists none of the networks known here, which the engine ONE had; set "
        "DOCKER_HOST to the address of that engine; if Docker was installed anew and they are gone, stop flannelpy, "
        "delete its state file, and start it again"
    )
    with pytest.raises(errors.EngineError, match="the engine without an id is another one"):
        look(state, engine.Identity(id=""))
    assert look(state, ONE)


def test_an_engine_whose_id_changed_is_known_by_its_networks(state: statefile.StateFile) -> None:
    look(state, ONE, LOCAL, OTHER)
    assert look(state, TWO, OTHER)
    assert look(state, TWO)


def test_an_engine_whose_id_changed_while_no_network_was_left_is_like_the_first_one(
    state: statefile.StateFile,
) -> None:
    """Docker was installed anew, or its key.json deleted, after the last network: no network would name it again."""
    look(state, ONE, LOCAL)
    docker = Docker(TWO)
    asked = confirmation.ConfirmedEngine(docker, state)
    assert not asked.look(()).is_confirmed
    with pytest.raises(errors.EngineError, match="the engine TWO is another one"):
        asked.create_network("flannel", {LOCAL})
    asked.create_network("flannel", ())
    assert docker.created == ["flannel"]
    assert look(state, TWO, OTHER, known=(OTHER,))
    with pytest.raises(errors.EngineError, match="the engine ONE is another one"):
        look(state, ONE, known=(OTHER,))


def test_a_network_of_swarm_confirms_no_engine(state: statefile.StateFile) -> None:
    """Every engine of the swarm lists it."""
    assert not look(state, TWO, SWARM)
    look(state, ONE, LOCAL)
    with pytest.raises(errors.EngineError):
        look(state, TWO, SWARM)


def test_an_engine_without_an_id_is_confirmed_by_no_more_than_its_networks(state: statefile.StateFile) -> None:
    nameless = engine.Identity(id="")
    assert look(state, nameless, LOCAL)
    assert not look(state, nameless)


def test_a_managed_plugin_is_the_engines_that_has_it_whatever_its_id(state: statefile.StateFile) -> None:
    assert look(state, dataclasses.replace(ONE, has_plugin=True))
    assert look(state, dataclasses.replace(TWO, has_plugin=True))
    with pytest.raises(errors.EngineError) as caught:
        look(state, dataclasses.replace(TWO, has_plugin=False), SWARM, LOCAL)
    assert str(caught.value) == (
        "the engine TWO is another one: this plugin is not among its plugins; set DOCKER_HOST to the address of the "
        "engine that runs this plugin"
    )


def test_a_file_that_cannot_be_written_keeps_nobody_from_looking(
    state: statefile.StateFile, caplog: pytest.LogCaptureFixture
) -> None:
    with state.read() as tx:
        tx.rows("PRAGMA query_only = ON")
    assert look(state, ONE, LOCAL)
    assert "engine confirmed, and not saved yet id=ONE: cannot write the state file" in caplog.text


def test_nothing_is_created_on_another_engine(state: statefile.StateFile) -> None:
    docker = Docker(ONE)
    confirmation.ConfirmedEngine(docker, state).create_network("flannel", ())
    assert docker.created == ["flannel"]
    docker.identity = dataclasses.replace(ONE, has_plugin=False)
    with pytest.raises(errors.EngineError):
        confirmation.ConfirmedEngine(docker, state).create_network("flannel", ())
    assert docker.created == ["flannel"]
