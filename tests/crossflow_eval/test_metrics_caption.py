"""Caption scores against pycocoevalcap: its stored numbers on 1,126 captions, its program on all of COCO val2017.

METEOR takes ten seconds to start, so it runs once, under a Turkish locale with its comma for the decimal point.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from golden_files import golden_file

from crossflow.errors import CrossFlowError
from crossflow_eval import stats
from crossflow_eval.judges import java
from crossflow_eval.metrics import caption
from crossflow_eval.metrics.caption import BLEU, CaptionScores
from crossflow_eval.metrics.meteor import meteor_score, meteor_statistics
from crossflow_eval.types import Example, Metric

GOLDEN = json.loads(golden_file("captions.json").read_text())
PAIRS, REAL = GOLDEN["pairs"], GOLDEN["real"]
COCO = "CROSSFLOW_COCO_CAPTIONS"
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")


def examples(pairs):
    return [Example(id=str(k), source=f"{k}.jpg", target=pair["references"]) for k, pair in enumerate(pairs)]


def scored(pairs, *, batch=1000, **options):
    """The values and the rows of captions taken batch by batch."""
    metric = CaptionScores(**{"with_meteor": False, **options})
    assert isinstance(metric, Metric)
    listed = examples(pairs)
    for start in range(0, len(pairs), batch):
        captions = [pair["caption"] for pair in pairs[start : start + batch]]
        assert metric.update(listed[start : start + batch], captions) is None
    return metric.compute(), metric.rows()


@pytest.fixture(scope="module")
def whole():
    """All pairs scored once, with METEOR, under a Turkish locale: values, rows, tokens, METEOR's counts."""
    if shutil.which("java") is None:
        pytest.skip("there is no java on the PATH")
    kept = {}

    def tokenize(*texts):
        kept["tokens"] = java.tokenize(*texts)
        return kept["tokens"]

    def statistics(counts):
        kept["counts"] = counts
        return meteor_statistics(counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
        patch.setattr(caption, "tokenize", tokenize)
        patch.setattr(caption, "meteor_statistics", statistics)
        values, rows = scored(PAIRS, batch=100, with_meteor=True)
    return values, rows, kept["tokens"], kept["counts"]


def test_the_tokens_are_pycocoevalcaps(whole):
    captions, references = whole[2]
    assert captions == [pair["tokens"] for pair in PAIRS]
    assert references == [reference for pair in PAIRS for reference in pair["reference_tokens"]]


def test_every_caption_has_pycocoevalcaps_scores(whole):
    """Golden, 1,126 captions and seven scores, to 1e-12."""
    for row, pair in zip(whole[1], PAIRS, strict=True):
        assert row.keys() == {"caption", *pair["scores"]}
        assert row["caption"] == pair["caption"]
        assert {name: row[name] for name in pair["scores"]} == pytest.approx(pair["scores"], rel=1e-12, abs=1e-12)


def test_the_corpus_has_pycocoevalcaps_scores(whole):
    assert {name: value.mean for name, value in whole[0].items()} == pytest.approx(GOLDEN["corpus"], rel=1e-12)
    for value in whole[0].values():
        assert value.n == len(PAIRS)
        assert value.ci_low < value.mean < value.ci_high


def test_the_anchor_on_real_data_holds(whole):
    """The example results of coco-caption on their 126 images in val2017, as pycocoevalcap prints them."""
    values, rows = scored(PAIRS[:REAL])
    printed = dict(zip(BLEU, (0.5855, 0.4047, 0.2825, 0.1983), strict=True)) | {"rouge_l": 0.4080, "cider_d": 0.6277}
    means = {name: value.mean for name, value in values.items()}
    assert means == pytest.approx(printed, abs=5e-5)
    meteor = float(meteor_score(meteor_statistics(whole[3][:REAL]).sum(axis=0))[0])
    assert meteor == pytest.approx(0.2051, abs=5e-5)
    assert means | {"meteor": meteor} == pytest.approx(GOLDEN["corpus_of_real"], rel=1e-12)
    assert [row["cider_d"] for row in rows] == pytest.approx(GOLDEN["cider_d_of_real"], abs=1e-12)


def test_meteor_is_full_for_equal_captions_and_nothing_for_strangers():
    """Closed forms: three content words matched by stem in one piece weigh 0.6; penalty 0.6 (1 / 3)^0.2."""
    equal = np.array([[4, 4, 1, 1, 3, 3, 1, 1, *[0] * 12, 1, 4, 4]], dtype=np.float64)
    stems = np.array([[3, 4, 0, 1, 0, 0, 0, 0, 3, 3, *[0] * 10, 1, 3, 3]], dtype=np.float64)
    strange = np.array([[4, 4, 1, 1, *[0] * 19]], dtype=np.float64)
    empty = np.zeros((1, 23))
    precision, recall = 0.6, 3 * 0.6 * 0.75 / (3 * 0.75 + 0.25)
    expected = (1 - 0.6 * (1 / 3) ** 0.2) / (0.15 / precision + 0.85 / recall)
    scores = [float(meteor_score(meteor_statistics(counts))[0, 0]) for counts in (equal, stems, strange, empty)]
    assert scores == pytest.approx([1, expected, 0, 0], abs=1e-15)


@needs_java
def test_intervals_are_the_bootstrap_of_the_package_and_of_sums_for_bleu(monkeypatch):
    """Law: the interval of a mean is that of ``stats``. Oracle: BLEU's by resampling the captions themselves."""
    for module in (caption, stats):
        monkeypatch.setattr(module, "RESAMPLES", 200)
    pairs = PAIRS[:40]
    values, rows = scored(pairs)
    for name in ("rouge_l", "cider_d"):
        expected = stats.bootstrap_mean([row[name] for row in rows])
        assert values[name].model_dump() == pytest.approx(expected.model_dump(), rel=1e-12)
    generator = np.random.default_rng(0)
    captions, references = ([pair[kind] for pair in pairs] for kind in ("tokens", "reference_tokens"))
    resampled = []
    for _ in range(200):
        drawn = generator.integers(len(pairs), size=len(pairs))
        corpus = caption.Corpus.of([captions[k] for k in drawn], [references[k] for k in drawn])
        sums = caption.bleu_statistics(corpus, caption.count_ngrams(corpus)).sum(axis=0)
        resampled.append(caption.bleu(sums))
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0)
    assert [values[name].ci_low for name in BLEU] == pytest.approx(low, rel=1e-9)
    assert [values[name].ci_high for name in BLEU] == pytest.approx(high, rel=1e-9)


@needs_java
def test_captions_that_are_all_alike_have_no_interval():
    pair = {"caption": "a red dog", "references": ["a red dog runs"]}
    values, _ = scored([pair] * 3)
    assert {(value.ci_low, value.ci_high) for value in values.values()} == {(None, None)}


@needs_java
@pytest.mark.parametrize(("images", "warned"), [(1, True), (2, False)])
def test_cider_of_a_single_image_says_that_its_weights_are_0(images, warned):
    """log(1) - log(1): a perfect caption scores 0, as in pycocoevalcap; of two images it scores 10."""
    metric = CaptionScores(tokens="words", with_meteor=False)
    captions = ["a cat sits on a mat", "two dogs run in the park"][:images]
    metric.update([Example(id=text, source="x", target=[text]) for text in captions], captions)
    values = metric.compute()
    assert values["cider_d"].mean == pytest.approx(0 if warned else 10)
    assert ("CIDEr-D" in metric.protocol.get("warning", "")) == warned


def test_empty_captions_and_captions_of_10000_words_are_scored():
    long = " ".join(f"word{number}" for number in range(10_000))
    values, rows = scored([{"caption": long, "references": [long, ""]}, {"caption": "", "references": ["a dog", long]}])
    assert rows[0]["rouge_l"] == pytest.approx(1)
    assert [row["bleu_1"] for row in rows] == pytest.approx([1, 0], abs=1e-9)
    assert values["bleu_1"].n == 2


def test_plain_words_need_no_java_and_say_so(monkeypatch, tmp_path):
    """Oracle: on captions whose PTB tokens are plain words the scores are those of these tokens."""
    tokens = [[pair["tokens"], *pair["reference_tokens"]] for pair in PAIRS]
    plain = [each for each in tokens if all(re.fullmatch(r"[a-z ]+", caption) for caption in each)][:50]
    assert len(plain) == 50
    pairs = [{"caption": own, "references": others} for own, *others in plain]
    monkeypatch.setattr(caption, "tokenize", lambda *texts: [list(text) for text in texts])
    monkeypatch.setattr(caption, "find_java", lambda: "java")
    expected, _ = scored(pairs)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scored(pairs, tokens="words")[0] == expected
    loud = [{**pair, "caption": f"{pair['caption'].upper()}, !"} for pair in pairs]
    assert scored(loud, tokens="words")[0] == expected
    protocols = [CaptionScores(tokens="words", with_meteor=False).protocol]
    with pytest.raises(CrossFlowError, match="there is no java"):
        CaptionScores(tokens="words")
    monkeypatch.undo()
    monkeypatch.setattr(caption, "find_java", lambda: "java")
    protocols.append(CaptionScores(with_meteor=False).protocol)
    assert [name for name in protocols[0] if protocols[0][name] != protocols[1][name]] == ["tokens"]


def test_spice_stands_beside_the_others_where_its_models_are_given(monkeypatch, tmp_path):
    monkeypatch.setattr(caption, "check_spice", lambda models: None)
    monkeypatch.setattr(caption, "find_java", lambda: "java")
    monkeypatch.setattr(caption, "tokenize", lambda *texts: [list(text) for text in texts])
    monkeypatch.setattr(caption, "spice", lambda captions, references, models: np.array([0.25, 0.75]))
    values, rows = scored(PAIRS[:2], spice_models=tmp_path)
    assert values["spice"].mean == 0.5
    assert [row["spice"] for row in rows] == [0.25, 0.75]
    metric = CaptionScores(with_meteor=False, spice_models=tmp_path)
    assert list(metric.higher_is_better) == [*BLEU, "rouge_l", "cider_d", "spice"]
    assert "spice" in metric.protocol
    assert "spice" not in CaptionScores(with_meteor=False).protocol


def test_an_error_while_scoring_ends_meteor(monkeypatch, tmp_path):
    """A shell script in the place of Java, of which METEOR would run for a minute; the error comes meanwhile."""

    def fails(corpus):
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        raise KeyError

    place = tmp_path / "java"
    place.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid\nexec sleep 60\n")
    place.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(caption, "count_ngrams", fails)
    with pytest.raises(KeyError):
        scored(PAIRS[:2], with_meteor=True, tokens="words")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_cannot_be_scored_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CrossFlowError, match="there is no java on the PATH"):
        CaptionScores()
    monkeypatch.setattr(caption, "find_java", lambda: "java")
    with pytest.raises(CrossFlowError, match="SPICE needs stanford-corenlp-3"):
        CaptionScores(spice_models=tmp_path)
    metric = CaptionScores()
    with pytest.raises(CrossFlowError, match="1 examples have no reference captions: bare"):
        metric.update([Example(id="bare", source="bare.jpg")], ["a dog"])
    with pytest.raises(CrossFlowError, match="need captions, got ndarray"):
        metric.update(examples(PAIRS[:1]), [np.zeros((2, 2, 3), np.uint8)])


@pytest.mark.slow
@pytest.mark.skipif(COCO not in os.environ, reason=f"{COCO} does not name captions_val2017.json")
def test_all_of_val2017_agrees_caption_by_caption(capfd):
    """Oracle: pycocoevalcap's own programs, the first caption of each of 5,000 images against the others."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    record = json.loads(Path(os.environ[COCO]).read_text())
    of_image = defaultdict(list)
    for annotation in record["annotations"]:
        of_image[annotation["image_id"]].append(annotation["caption"])
    pairs = [{"caption": first, "references": others} for first, *others in of_image.values()]
    values, rows = scored(pairs, with_meteor=True)

    listed = {k: pair["references"] for k, pair in enumerate(pairs)}
    targets = PTBTokenizer().tokenize({k: [{"caption": each} for each in several] for k, several in listed.items()})
    results = PTBTokenizer().tokenize({k: [{"caption": pair["caption"]}] for k, pair in enumerate(pairs)})
    corpus, each = Bleu(4).compute_score(targets, results, verbose=0)
    theirs = dict(zip(BLEU, zip(corpus, each, strict=True), strict=True))
    for name, scorer in {"rouge_l": Rouge(), "cider_d": Cider(), "meteor": Meteor()}.items():
        theirs[name] = scorer.compute_score(targets, results)
    capfd.readouterr()
    for name, (whole, each) in theirs.items():
        difference = max(abs(row[name] - score) for row, score in zip(rows, each, strict=True))
        print(f"{name}: {values[name].mean:.6f}, corpus {values[name].mean - whole:.1e}, captions {difference:.1e}")
        assert difference <= 1e-12
        assert values[name].mean == pytest.approx(whole, abs=1e-12)
