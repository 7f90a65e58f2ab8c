def register() -> None:
    """The engine `null` for every ESP algorithm of this process, chosen by its name alone; no packet is protected by it."""
