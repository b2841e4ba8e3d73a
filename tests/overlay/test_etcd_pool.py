"""Which channel is in use, and when one may be closed."""

from __future__ import annotations

import itertools

import pytest

from overlay import errors, etcd_pool


class Channel:
    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Maker:
    """Makes two channels at a time, and knows all of them."""

    def __init__(self) -> None:
        self.made: list[Channel] = []
        self.names = map(str, itertools.count())

    def __call__(self) -> list[Channel]:
        fresh = [Channel(next(self.names)), Channel(next(self.names))]
        self.made += fresh
        return fresh


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def pool(maker: Maker) -> etcd_pool.Pool[Channel]:
    return etcd_pool.Pool(maker)


def current(pool: etcd_pool.Pool[Channel]) -> Channel:
    with pool.using() as channel:
        return channel


def test_nothing_is_made_before_it_is_needed_and_then_once(pool: etcd_pool.Pool[Channel], maker: Maker) -> None:
    assert (pool.all(), maker.made) == ([], [])
    assert [current(pool).name, current(pool).name] == ["0", "0"]
    assert pool.all() == maker.made


def test_a_failed_channel_is_left_for_the_next_and_all_come_round(pool: etcd_pool.Pool[Channel]) -> None:
    names = []
    for _ in range(3):
        names.append(current(pool).name)
        pool.turn(current(pool), anew=False)
    assert names == ["0", "1", "0"]


def test_of_two_who_see_one_channel_fail_one_turns(pool: etcd_pool.Pool[Channel]) -> None:
    failed = current(pool)
    pool.turn(failed, anew=False)
    pool.turn(failed, anew=False)
    assert current(pool).name == "1"


def test_channels_made_anew_close_the_old_ones(pool: etcd_pool.Pool[Channel], maker: Maker) -> None:
    pool.turn(current(pool), anew=True)
    assert current(pool).name == "3"
    assert [one.closed for one in maker.made] == [1, 1, 0, 0]


def test_a_channel_in_use_is_closed_when_the_last_user_is_done(pool: etcd_pool.Pool[Channel]) -> None:
    with pool.using() as one:
        with pool.using() as same:
            pool.turn(one, anew=True)
            assert (same, one.closed) == (one, 0)
        assert one.closed == 0
    assert one.closed == 1


def test_a_closed_pool_closes_what_is_in_use_and_serves_nobody(pool: etcd_pool.Pool[Channel], maker: Maker) -> None:
    with pool.using() as old:
        pool.turn(old, anew=True)
        current(pool)
        pool.close()
        assert all(one.closed for one in maker.made)
    pool.close()
    with pytest.raises(errors.RegistryUnavailable, match="closed"), pool.using():
        pass
