"""HTTP/1.1 as bytes: request facts, response heads, timers."""
