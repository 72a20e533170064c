"""Floor 5: the loops that make the world as the store says: replicas, snapshots for the gateways, usage taken in."""
