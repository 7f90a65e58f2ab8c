NAMES: tuple[str, ...]
"""Counter name by verdict."""
HELP: tuple[str, ...]
"""Help text by verdict."""
VERDICTS: dict[str, int]
"""Verdict by counter name; `ok` is 0."""

def verdict_text(verdict: int) -> str:
    """`bad_icv: the integrity check failed` for a verdict's number."""
