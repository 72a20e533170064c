"""The fetch process: `python -m mooring.sources.fetch <folder>`, one per order, apart from control and its life."""
