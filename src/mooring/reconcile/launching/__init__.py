"""From a spec to a start: which files, which engine, how much memory, and whether the machine has room for it."""
