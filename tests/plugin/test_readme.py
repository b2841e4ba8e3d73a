"""The README's tables say what the code does, and the documents name nothing that is not there."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re

from driver import network
from plugin import settings

HERE = pathlib.Path(__file__).parents[2]
README = (HERE / "README.md").read_text()
OPERATIONS = (HERE / "docs/operations.md").read_text()


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


def test_every_metric_that_the_documents_name_is_there() -> None:
    sources = itertools.chain.from_iterable((HERE / room).glob("*.py") for room in ("plugin", "driver", "overlay"))
    names = {name for path in sources for name in re.findall(r'"(flannelpy_\w+)"', path.read_text())}
    assert set(re.findall(r"flannelpy_\w+", README + OPERATIONS)) <= names


def test_every_setting_and_option_that_operations_names_is_there() -> None:
    """In commands; prose has other words in capitals."""
    commands = "\n".join(line for line in OPERATIONS.splitlines() if line.startswith("    "))
    settings_named = set(re.findall(r"\b([A-Z][A-Z_]+)=", commands))
    assert settings_named <= {known.name for known in settings.KNOWN}
    options_named = set(re.findall(r"-o (flannelpy\S+?)=", OPERATIONS))
    assert options_named <= set(network.OPTIONS), options_named - set(network.OPTIONS)


def test_every_test_and_file_that_the_documents_name_is_there() -> None:
    files = [path.relative_to(HERE) for path in (HERE / "tests").rglob("*.py")]
    names = {path.stem for path in files}
    for path in files:
        names.update(re.findall(r"def (test_\w+)", (HERE / path).read_text()))
    documents = [HERE / "README.md", *(HERE / "docs").rglob("*.md")]
    texts = {
        path.name: path.read_text() for path in documents if path.name != "mutations.md"
    }  # a report, with a date
    missing = [
        (document, name)
        for document, text in texts.items()
        for name in (*re.findall(r"\btest_\w+", text), *re.findall(r"`((?:tests|docs|lab)/[\w./-]+)`", text))
        if name not in names and not (HERE / name).exists()
    ]
    assert missing == []
