"""GenEval: detections (``detector``), colours (``colors``), the verdict on them (``rules``), and the score (``score``).

Importing this package imports no torch; a detector and a classifier of colours do so when one is built.
"""

from crossflow_eval.judges.geneval.colors import ColorClassifier
from crossflow_eval.judges.geneval.detection import COLOR_ORDER, Box, Detection
from crossflow_eval.judges.geneval.detector import Detector
from crossflow_eval.metrics.geneval.rules import MAX_OBJECTS, TASKS, Verdict, judge, kept, overlap, relations
from crossflow_eval.metrics.geneval.score import GenEval

__all__ = [
    "COLOR_ORDER",
    "MAX_OBJECTS",
    "TASKS",
    "Box",
    "ColorClassifier",
    "Detection",
    "Detector",
    "GenEval",
    "Verdict",
    "judge",
    "kept",
    "overlap",
    "relations",
]
