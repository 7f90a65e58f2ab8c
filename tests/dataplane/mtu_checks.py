"""How many lengths the arithmetic was held to; printed at the end of the run."""

from __future__ import annotations

from tally import tally

CHECKS = tally("MTU arithmetic held to sealed packets, {name}: {count} comparisons")
