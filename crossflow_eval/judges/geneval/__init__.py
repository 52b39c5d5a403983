"""GenEval's detector and classifier of colours."""
