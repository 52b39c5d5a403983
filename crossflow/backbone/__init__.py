"""Velocity networks: ``forward(x [b c h w], t [b], conditional [b] bool) -> velocity [b c h w]``."""
