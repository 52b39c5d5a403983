"""Any to any: composable diffusion (CoDi, arXiv 2305.11846), and its rivals on the same parts.

A ``diffuser`` a modality reads prompt vectors; an ``environment`` encoder a modality tells the others what is being
generated; ``alignment`` trains the latter, pair by pair, and ``joint`` samples any set of outputs together. All of them
work on latents [b c h w] by modality, and know nothing of raw data.
"""
