"""What the Makefile runs: setting up ./.venv, checking sizes, writing generated docs."""
