"""Floor 4: the product's rules, one file per noun. Decides what is allowed; the store remembers it."""
