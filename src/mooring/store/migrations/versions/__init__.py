"""One file per schema change, numbered."""
