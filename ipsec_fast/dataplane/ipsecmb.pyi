def library_version() -> str:
    """`1.3.0`, of the library that is loaded."""
