"""The required engine; importing it registers its suites. No Python face."""
