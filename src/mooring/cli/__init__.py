"""The `mooring` command: starts the platform, and talks to a running one through its management API."""
