"""One module a suite, each with a `SUITE`."""
