def retire(old: object) -> None:
    """Keep `old`, which no worker can reach any more, until none still uses it."""

def retired() -> int:
    """How many replaced objects still wait for a worker."""
