def forks() -> int:
    """How many forks lie between the first process and this one."""
