"""`python -m plugin` as Docker runs it where OWN_DIR is set: a socket of its own, and the classic one."""

from __future__ import annotations

import os
import pathlib

from plugin import __main__ as command_line
from plugin import server
from tests.plugin import quick_plugin

if __name__ == "__main__":
    if own := os.environ["OWN_DIR"]:
        server.MANAGED_RUN_DIR = pathlib.Path(os.environ["RUN_DIR"])
        server.PLUGIN_SOCKET_DIR = pathlib.Path(own)
    command_line.serve(quick_plugin.TIMING, gives_way_s=float(os.environ["GIVES_WAY_S"]))
