"""From data to a Gaussian over source latents, where a flow begins."""
