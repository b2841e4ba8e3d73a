"""What all tests share: hypothesis' profiles.

`--hypothesis-profile long`: more examples, and others every time. `first-failure`: none is made smaller, which takes
minutes; for `mutations.py`, which wants to know no more than whether there is one.
"""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("long", max_examples=1000, derandomize=False)
hypothesis.settings.register_profile(
    "first-failure", phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate), derandomize=True
)
