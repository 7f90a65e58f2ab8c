class Crew:
    """`size` threads that take part of a batch's cipher work. Without one of them awake its owner does all of it.

    Give it to workers (`Worker(crew=)`) or to a batch (`PacketBatch(crew=)`), and to their SAs the size (`SA(crew=)`).
    `size` is 1 to 63, else UsageError. In a child of fork there are no threads: what needs them raises StateError.
    """

    size: int
    def __init__(self, size: int) -> None: ...
    def start(self) -> None:
        """Start the threads. StateError if they run already."""

    def stop(self) -> None:
        """Ends the threads; after the workers that use them. Twice is fine."""

    def counters(self) -> dict[str, int]:
        """`crew_runs`: batches that were shared; `crew_chunks`: parts of them that the crew did."""
