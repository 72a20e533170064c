"""Streaming answers: server-sent events, usage."""
