from __future__ import annotations

import pytest

from overlay import kernel_version, rtnl_socket

NO_SUCH_OPTION = 250


@pytest.mark.parametrize("release", ["4.19.0-27-amd64", "3.10.0-1160.el7.x86_64", "no number"])
def test_a_kernel_without_strict_dumps_is_named_with_the_oldest_that_will_do(release: str) -> None:
    obstacle = kernel_version.find_obstacle(release, has_strict_dumps=False)
    assert str(obstacle).startswith(f"Linux {release} is too old: ")
    assert str(obstacle).endswith("flannelpy needs Linux 4.20 or newer")


@pytest.mark.parametrize("release", ["4.20.0", "6.1.0-40-amd64", "4.18.0-553.el8_10.x86_64"])
def test_one_that_has_them_will_do_whatever_it_is_called(release: str) -> None:
    assert kernel_version.find_obstacle(release, has_strict_dumps=True) is None


def test_the_kernel_itself_is_asked() -> None:
    assert rtnl_socket.has_strict_dumps()
    assert not rtnl_socket.has_strict_dumps(NO_SUCH_OPTION)
