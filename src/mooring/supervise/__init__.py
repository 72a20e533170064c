"""Floor 6: processes. The supervisor keeps control and gateways alive, a shim one engine. Standard library only."""
