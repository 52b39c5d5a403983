"""Caption scores by pycocoevalcap's own programs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.java import find_java
from crossflow_eval.metrics.caption import BLEU, TOKENS, CaptionScores
from crossflow_eval.peers.peer import Pairs, Peer, Said, Theirs, quiet

ROUNDING = 1e-9
"""Both sides count in whole numbers and divide in float64; METEOR prints all of its digits."""
SPICE = "pycocoevalcap's SPICE fetches its models itself; run it by hand"
Texts = dict[int, list[str]]


def _compute(metric: CaptionScores, pairs: Pairs) -> dict[str, Said]:
    captions: list[str] = []
    references: list[Sequence[str]] = []
    for example, output in pairs():
        captions.append(str(output))
        references.append(example.target)
    with quiet():
        return scores(
            captions,
            references,
            ptb=metric.protocol["tokens"] == TOKENS["ptb"],
            meteor="meteor" in metric.higher_is_better,
        ) | ({"spice": SPICE} if "spice" in metric.higher_is_better else {})


def scores(captions: Sequence[str], references: Sequence[Sequence[str]], *, ptb: bool, meteor: bool) -> dict[str, Said]:
    """The corpus scores of captions [n], each against its references."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if ptb:
        try:
            find_java()
        except CrossFlowError as error:
            return dict.fromkeys((*BLEU, "rouge_l", "cider_d", "meteor"), str(error))
    cut = _ptb if ptb else _words
    results = cut({number: [caption] for number, caption in enumerate(captions)})
    targets = cut({number: list(several) for number, several in enumerate(references)})
    way = "pycocoevalcap" + ("" if ptb else ", on words cut as the protocol says")
    found: dict[str, Said] = {}
    bleu, _ = Bleu(4).compute_score(targets, results, verbose=0)
    for name, value in zip(BLEU, bleu, strict=True):
        found[name] = Theirs(value=float(value), tolerance=ROUNDING, way=way)
    for name, scorer in {"rouge_l": Rouge(), "cider_d": Cider()}.items():
        value = float(scorer.compute_score(targets, results)[0])
        found[name] = Theirs(value=value, tolerance=ROUNDING, way=way)
    if meteor:
        found["meteor"] = _meteor(targets, results, way)
    return found


def _meteor(targets: Texts, results: Texts, way: str) -> Said:
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        find_java()
    except CrossFlowError as error:
        return str(error)
    return Theirs(value=float(Meteor().compute_score(targets, results)[0]), tolerance=ROUNDING, way=way)


def _ptb(texts: Texts) -> Texts:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    return PTBTokenizer().tokenize(
        {number: [{"caption": each} for each in several] for number, several in texts.items()}
    )


def _words(texts: Texts) -> Texts:
    return {
        number: [" ".join(re.findall(r"\w+", each.lower())) for each in several] for number, several in texts.items()
    }


PEER = Peer(packages=("pycocoevalcap",), compute=_compute)
