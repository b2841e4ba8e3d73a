"""The pieces that the text of an nft table is made of.

Pure. Used by the modules that write our tables. Source: nft(8).
"""

from __future__ import annotations

from collections.abc import Iterable

from overlay import firewall, netstate


def chain(name: str, rules: Iterable[str], hook: str = "") -> str:
    """A chain; a base chain where it has a hook ("type filter hook forward priority filter")."""
    start = f"\t\t{hook}; policy accept;\n" if hook else ""
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    return f"\tchain {name} {{\n{start}{body}\t}}\n"


def names(links: Iterable[str]) -> str:
    """Links' names, one or a set of them."""
    return set_of(f'"{link}"' for link in links)


def networks(every: Iterable[netstate.IPNetwork]) -> str:
    """Networks of one family, collapsed, since nft refuses a set whose intervals overlap."""
    return set_of(str(network) for network in firewall.collapse(every))


def set_of(elements: Iterable[str]) -> str:
    """What stands where a rule compares: the element alone, or all of them in braces."""
    every = list(elements)
    return every[0] if len(every) == 1 else "{ " + ", ".join(every) + " }"
