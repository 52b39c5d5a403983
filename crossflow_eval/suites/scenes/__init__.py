"""The suites of the embedded world."""
