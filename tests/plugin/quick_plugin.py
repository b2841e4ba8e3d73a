"""`python -m plugin` with a look at Docker every four tenths of a second: tests wait for what a look mends."""

from __future__ import annotations

from plugin import __main__ as command_line
from plugin import engine_watch

TIMING = engine_watch.Timing(period_s=0.4, confirm_s=0.4, retry_s=0.2, grace_s=1.2)

if __name__ == "__main__":
    command_line.serve(TIMING)
