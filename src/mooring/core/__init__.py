"""Floor 1: the words of the system: nouns, ids, errors, snapshot and usage types. Imports no other floor."""
