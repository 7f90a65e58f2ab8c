"""How many lengths the arithmetic was held to; conftest prints it."""

from __future__ import annotations

from collections import Counter

CHECKS: Counter[str] = Counter()
