"""Floor 4: the data plane. No database, no framework; HOTPATH rules are explained in docs/decisions."""
