"""Floor 3: memory. Tables, queries (one file per noun), migrations. Rows never leave this folder; nouns do."""
