"""Kinds of data, a file each: between raw data and latents."""
