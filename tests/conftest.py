"""What all tests share: hypothesis' profiles. `--hypothesis-profile long`: more examples, and others every time."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("long", max_examples=1000, derandomize=False)
