"""Stand-ins for what engines read and are: small model files, and a server that answers as an engine was recorded."""
