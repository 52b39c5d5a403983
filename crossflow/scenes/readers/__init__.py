"""The exact readers, a file a modality: each says of a raw value what ``crossflow.scenes.facts`` says of an event.

None has a learned part, and none was tuned on a model's outputs; ``python -m benchmarks.scenes_senses`` measures them.
"""
