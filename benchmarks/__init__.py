"""`make bench`: the platform measured beside nginx and other gateways, on the same work, in one run."""
