"""The README's tables say what the code does."""

from __future__ import annotations

import dataclasses
import pathlib

from driver import network
from plugin import settings

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()


def table(heading: str) -> dict[str, tuple[str, str]]:
    """Default and meaning by name, of the table under this heading row."""
    _, _, rest = README.partition(f"| {heading} | default | what |\n|---|---|---|\n")
    rows = [line.strip("|").split("|", 2) for line in rest.split("\n\n")[0].splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {name.strip("`"): (default.strip("`"), what) for name, default, what in cells}


def shown(default: object) -> str:
    """As an operator would write it; what is not set is nothing."""
    return str(default).lower() if isinstance(default, bool) else str(default or "")


def test_every_setting_is_in_the_readme_with_its_default_and_description() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(settings.Settings)}
    assert table("setting") == {
        known.name: (shown(defaults[known.field]), known.description) for known in settings.KNOWN if known.managed
    }


def test_every_option_is_in_the_readme_with_its_default() -> None:
    defaults = network.Options()
    assert {name: default for name, (default, _) in table("option").items()} == {
        network.OPTION_GATEWAY: str(defaults.gateway_mode),
        network.OPTION_SPOOFING: "drop",
        network.OPTION_OUTSIDE: "drop",
        network.OPTION_MTU: "the overlay's",
        network.OPTION_MASQUERADE: shown(defaults.masquerade),
        network.OPTION_ICC: shown(defaults.icc),
        network.OPTION_BRIDGE: "named after the id",
        network.OPTION_IFACE_PREFIX: defaults.iface_prefix,
    }
    assert set(table("option")) == set(network.OPTIONS)
