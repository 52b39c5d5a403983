"""What is trained, by name: the embedded world, the authors' program, the paper."""
