"""The running service: wiring, start, supervision, shutdown."""
