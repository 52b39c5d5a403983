"""Ablations: recipes trained anew with several seeds, each model measured alike, and the table of their means.

::

    OUT/<row>-seed<k>/   model.safetensors and all else of the training, train.log, timing.jsonl
        <suite>/scale-<w>-<digest>/   one run on the test suite, and where the models are guided one for every guidance
                                      scale on the validation suite
    OUT/references/<role>-<digest>/   the references of the test suite, such as chance and ceiling

Every step leaves files that the next reads, so a killed ablation goes on where it was and repeats nothing. Nothing is
ever chosen by a number of the test suite.
"""

from __future__ import annotations

from crossflow_eval.ablate.measure import Measured, ablate, choose_scale
from crossflow_eval.ablate.plan import RUNS, Part, Plan, available, make_plan
from crossflow_eval.ablate.write import results_folder, write_table

__all__ = [
    "RUNS",
    "Measured",
    "Part",
    "Plan",
    "ablate",
    "available",
    "choose_scale",
    "make_plan",
    "results_folder",
    "write_table",
]
