"""Schema changes, applied in order at the start by `store.database.migrate`."""
