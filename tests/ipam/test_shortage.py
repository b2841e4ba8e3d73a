from __future__ import annotations

from ipam import shortage

POOL = "flannelpy/10.2.20.0/24"


def news(*used: int, total: int = 254) -> list[int]:
    """The uses, of these in turn, at which the pool has just become short."""
    shortages = shortage.Shortages()
    return [one for one in used if shortages.notice(POOL, one, total)]


def test_a_pool_is_short_from_eighty_percent_on_and_says_so_once() -> None:
    assert news(*range(1, 255)) == [204]


def test_it_says_so_again_only_after_it_was_below_seventy_percent() -> None:
    assert news(204, 203, 204, 178, 204) == [204]
    assert news(204, 177, 204) == [204, 204]


def test_a_pool_between_the_two_is_what_it_was() -> None:
    shortages = shortage.Shortages()
    seen = []
    for used in (203, 204, 178, 177, 203):
        shortages.notice(POOL, used, 254)
        seen.append(shortages.is_short(POOL))
    assert seen == [False, True, True, False, False]


def test_each_pool_is_on_its_own_and_a_new_one_of_the_same_addresses_too() -> None:
    shortages = shortage.Shortages()
    assert shortages.notice(POOL, 204, 254)
    assert not shortages.is_short("flannelpy/10.2.21.0/24")
    shortages.forget(POOL)
    assert (shortages.is_short(POOL), shortages.notice(POOL, 204, 254)) == (False, True)


def test_small_and_endless_pools_are_counted_right() -> None:
    assert news(1, 2, total=2) == [2]
    assert news(3, 4, 5, 6, total=6) == [5]
    assert news(65_536, total=2**64 - 1) == []
