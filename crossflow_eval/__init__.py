"""The measurement: suites, metrics, runs that resume, and reports whose numbers carry their protocol."""
