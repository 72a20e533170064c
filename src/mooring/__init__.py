"""Mooring: a self-hosted Model-as-a-Service platform. docs/map.md shows the floors and the two journeys."""

__version__ = "0.1.0"
