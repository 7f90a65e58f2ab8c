"""The required engine; importing it registers its suites."""

def library_version() -> str:
    """`OpenSSL 3.0.22 25 Aug 2026`, of the library that is loaded."""
