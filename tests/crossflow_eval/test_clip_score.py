"""Each CLIP score against its publisher's formula and against torchmetrics, on a tiny random CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.multimodal import CLIPScore as TorchmetricsCLIPScore
from torchvision import transforms
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.clip import MEAN, STD, Clip, Towers, load_clip, tokenize
from crossflow_eval.metrics.clip_score import (
    COSINE100,
    CROSSFLOW,
    HESSEL,
    TORCHMETRICS,
    CaptionCLIPScore,
    ClipProtocol,
    CLIPScore,
)
from crossflow_eval.types import Example, Metric

SIDE = 32
PROMPTS = [
    "a red ball",
    "two dogs and a cat on a table",
    "The Eiffel tower, at night.",
    " ".join(f"word{index}" for index in range(200)),
    "a bench",
]
"""The fourth has 200 words: more than the model reads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seed whose images and texts lie at cosines around 0.5."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=sizes, vision_config={**sizes, "image_size": SIDE, "patch_size": 8}, projection_dim=8
    )
    model, generator = CLIPModel(config), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(0.2 * torch.randn(weights.shape, generator=generator))
    path = tmp_path_factory.mktemp("clip") / "tiny"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> CLIPModel:
    return CLIPModel.from_pretrained(folder).eval()


def pictures(n: int, side: int = SIDE) -> list[np.ndarray]:
    return list(np.random.default_rng(side).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def examples(prompts: Sequence[str] = PROMPTS) -> list[Example]:
    return [Example(id=str(index), source=prompt) for index, prompt in enumerate(prompts)]


def cosines(model: CLIPModel, images: Sequence[Tensor], texts: Sequence[str]) -> np.ndarray:
    """Straight through the model, one pair at a time; tokens as OpenAI's code makes and cuts them."""
    encode, found = open_clip.tokenizer._tokenizer.encode, []
    with torch.inference_mode():
        for image, text in zip(images, texts, strict=True):
            tokens = torch.tensor([[49406, *encode(text)[:75], 49407]])
            first = model.get_image_features(image[None]).pooler_output
            second = model.get_text_features(tokens).pooler_output
            found.append(float(torch.nn.functional.cosine_similarity(first.double(), second.double())))
    return np.array(found)


def prepared(images: Sequence[np.ndarray], *resize: object) -> list[Tensor]:
    steps = transforms.Compose([*resize, transforms.Normalize(MEAN, STD)])
    return [steps(Image.fromarray(image)) for image in images]


def scored(metric: CLIPScore, images: Sequence[np.ndarray], prompts: Sequence[str] = PROMPTS) -> list[float]:
    [name] = metric.higher_is_better
    return [row[name] for row in metric.update(examples(prompts), images)]


def test_hessels_score_is_its_codes_formula(clip: Clip, model: CLIPModel) -> None:
    """2.5 max(cos, 0) with the prefix, Resize(bicubic), CenterCrop, on images that need both; tolerance 1e-5."""
    images = [image[: 50 - 3 * index] for index, image in enumerate(pictures(5, 50))]
    bicubic = transforms.Resize(SIDE, transforms.InterpolationMode.BICUBIC)
    inputs = prepared(images, bicubic, transforms.CenterCrop(SIDE), transforms.ToTensor())
    expected = 2.5 * np.maximum(cosines(model, inputs, [f"A photo depicts {text}" for text in PROMPTS]), 0)
    metric = CLIPScore(clip, HESSEL)
    assert scored(metric, images) == pytest.approx(expected, abs=1e-5)
    assert metric.compute()["clip_score/hessel"].mean == pytest.approx(expected.mean(), abs=1e-5)


def test_crossflows_score_is_its_codes_formula(clip: Clip, model: CLIPModel) -> None:
    """max(cos, 0), no prefix, a bilinear resize of the tensor without antialiasing; tolerance 1e-5."""
    images = pictures(5, 48)
    inputs = prepared(images, transforms.ToTensor(), transforms.Resize(SIDE, antialias=False))
    expected = np.maximum(cosines(model, inputs, PROMPTS), 0)
    metric = CLIPScore(clip, CROSSFLOW)
    assert scored(metric, images) == pytest.approx(expected, abs=1e-5)
    value = metric.compute()["clip_score/crossflow"]
    assert value.mean == pytest.approx(expected.mean(), abs=1e-5)
    assert value.ci_low is not None and value.ci_low < value.mean and value.n == 5


class Torchmetrics(TorchmetricsCLIPScore):
    """Its CLIP score on a model on disk, behind what transformers 5 broke (torchmetrics 1.9)."""

    def __init__(self, model: CLIPModel) -> None:
        tokenizer, names = open_clip.tokenizer._tokenizer, {"<start_of_text>": "<|startoftext|>"}
        names["<end_of_text>"] = "<|endoftext|>"
        vocabulary = {names.get(word, word): index for word, index in tokenizer.encoder.items()}
        merges = sorted(tokenizer.bpe_ranks, key=lambda pair: tokenizer.bpe_ranks[pair])
        images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
        processor = CLIPProcessor(images, CLIPTokenizer(vocab=vocabulary, merges=merges))
        super().__init__(lambda: (Unwrapped(model), processor))


class Unwrapped(torch.nn.Module):
    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.inner, self.config = model, model.config

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return self.inner.get_image_features(pixels).pooler_output

    def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.inner.get_text_features(tokens, mask).pooler_output


def test_cosine100_is_torchmetrics_for_captions_that_fit(clip: Clip, model: CLIPModel) -> None:
    """Tolerance 1e-5 of the cosine; images of the model's size, so that only the score is compared."""
    images, prompts = pictures(4), PROMPTS[:3] + PROMPTS[4:]
    theirs = Torchmetrics(model)
    for image, prompt in zip(images, prompts, strict=True):
        theirs.update([torch.from_numpy(image).permute(2, 0, 1)], [prompt])
    metric = CLIPScore(clip, COSINE100)
    scored(metric, images, prompts)
    ours = metric.compute()["clip_score/cosine100"]
    assert ours.mean / 100 == pytest.approx(float(theirs.compute()) / 100, abs=1e-5)
    assert ours.mean > 1


@pytest.mark.filterwarnings("ignore:Encountered caption longer")
def test_a_caption_of_200_words_is_cut_as_openai_cuts_it(clip: Clip, model: CLIPModel) -> None:
    """torchmetrics 1.9 cuts the end token off and reads the text elsewhere; ours is that of the 75 first tokens."""
    [image] = pictures(1)
    [ours] = scored(CLIPScore(clip, COSINE100), [image], [PROMPTS[3]])
    [expected] = cosines(model, prepared([image], transforms.ToTensor()), [PROMPTS[3]])
    assert ours / 100 == pytest.approx(expected, abs=1e-5)
    theirs = Torchmetrics(model)
    theirs.update([torch.from_numpy(image).permute(2, 0, 1)], [PROMPTS[3]])
    assert abs(float(theirs.compute()) / 100 - expected) > 1e-3


TYPED = [
    "a cat <|endoftext|> and a dog",
    "<|startoftext|>a cat",
    "<|ENDOFTEXT|> in capitals",
    "a sign that says <end_of_text>",
    "caf\u00e9 or cafe\u0301, the schoolâ€™s &amp; the rest",
    "\ufb01ne \u201cquotes\u201d\u3000and\u00a0blanks",
    "",
    "  two   dogs' 42 bones!? ",
]
"""Special tokens of two libraries, what ftfy and HTML change, and what no cleaning should."""


def test_torchmetrics_score_is_torchmetrics(clip: Clip, model: CLIPModel) -> None:
    """Sizes whose centre falls between pixels, texts that ftfy would change, one too long; tolerance 1e-5."""
    random = np.random.default_rng(5)
    shapes = [(47, 61), (50, 33), (32, 39), (35, 32), (100, 37), (33, 32), (20, 31), (64, 64)] + [(43, 32)] * 5
    images = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    texts = [*TYPED, *PROMPTS]
    theirs = Torchmetrics(model)
    with pytest.warns(UserWarning, match="Encountered caption longer"):
        expected = []
        for image, text in zip(images, texts, strict=True):
            theirs.update([torch.from_numpy(image).permute(2, 0, 1)], [text])
            expected.append(float(theirs.score))
    rows = np.cumsum(scored(CLIPScore(clip, TORCHMETRICS), images, texts))
    assert rows / 100 == pytest.approx(np.array(expected) / 100, abs=1e-5 * len(texts))
    metric = CLIPScore(clip, TORCHMETRICS)
    scored(metric, images, texts)
    assert metric.compute()["clip_score/torchmetrics"].mean == pytest.approx(float(theirs.compute()), abs=1e-3)


def test_torchmetrics_tokens_are_transformers(model: CLIPModel) -> None:
    tokenizer = Torchmetrics(model).processor.tokenizer
    for text in TYPED + PROMPTS:
        expected = tokenizer(text)["input_ids"][:77]
        assert tokenize([text], "torchmetrics")[0, : len(expected)].tolist() == expected, text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat <|endoftext|> dog", [49406, 320, 2368, 49407, 1929, 49407]),
        ("<|StartOfText|>a cat", [49406, 49406, 320, 2368, 49407]),
        ("a cat &lt;|endoftext|&gt;", [49406, 320, 2368, 49407, 49407]),
    ],
)
def test_openais_special_tokens_in_a_caption_are_read_as_its_code_reads_them(text: str, expected: list[int]) -> None:
    """openai/CLIP, simple_tokenizer.py: both are in its pattern, whatever their case, after HTML's entities."""
    assert [token for token in tokenize([text])[0].tolist() if token] == expected


def test_open_clips_special_tokens_are_plain_text_and_the_rest_is_open_clips() -> None:
    [row] = tokenize(["a <end_of_text> b"]).tolist()
    assert row.count(49407) == 1 and row.count(49406) == 1
    plain = [text for text in TYPED + PROMPTS if "<" not in text]
    assert torch.equal(tokenize(plain), open_clip.tokenize(plain))


@pytest.mark.parametrize("mode", ["1", "P"])
def test_hessel_resizes_an_image_as_it_is_stored_and_makes_it_rgb_last(
    clip: Clip, model: CLIPModel, tmp_path: Path, mode: str
) -> None:
    """Oracle: OpenAI's Compose on the file; bicubic of the RGB image gives another score."""
    picture = Image.fromarray(pictures(1, 47)[0][:40]).convert(mode)
    picture.save(tmp_path / "a.png")
    bicubic = transforms.Resize(SIDE, transforms.InterpolationMode.BICUBIC)
    rest = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    steps = transforms.Compose([bicubic, transforms.CenterCrop(SIDE), lambda image: image.convert("RGB"), *rest])
    caption = "A photo depicts a bench"
    [expected, other] = 2.5 * cosines(model, [steps(picture), steps(picture.convert("RGB"))], [caption] * 2)
    metric = CaptionCLIPScore(clip)
    [row] = metric.update([Example(id="a", source=tmp_path / "a.png", target=["a ball"])], ["a bench"])
    assert row["clip_score/hessel"] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - other) > 1e-4


def by_hand() -> Clip:
    """Image embeddings [mean, 1], text embeddings [1, 0] for "same" and [-1, 0] for anything else."""
    same = int(open_clip.tokenize(["same"])[0, 1])

    def text(tokens: Tensor) -> Tensor:
        return torch.stack([(tokens[:, 1] == same) * 2.0 - 1.0, torch.zeros(len(tokens))], dim=1)

    def image(pixels: Tensor) -> Tensor:
        mean = pixels.mean(dim=(1, 2, 3))
        return torch.stack([mean, torch.ones_like(mean)], dim=1)

    return Clip(Towers(image, text, SIDE, 2, "cpu"), "hand", "e" * 64)


def test_negative_cosines_count_as_zero_each_or_in_the_mean_or_stay() -> None:
    """White's normalised mean is m; a pair scores m / sqrt(m^2 + 1), its opposite minus that."""
    white = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    mean = np.mean((1 - np.array(MEAN)) / np.array(STD))
    cosine = mean / np.sqrt(mean**2 + 1)
    for prompts, pair, of_mean, stays in (
        (["same", "other"], cosine / 2, 0.0, 0.0),
        (["same", "same", "other"], 2 * cosine / 3, 100 * cosine / 3, 100 * cosine / 3),
        (["other"], 0.0, 0.0, -100 * cosine),
    ):
        metrics = [
            CLIPScore(by_hand(), each)
            for each in (CROSSFLOW, COSINE100, replace(COSINE100, floor="none", name="plain"))
        ]
        for metric in metrics:
            scored(metric, [white] * len(prompts), prompts)
        assert metrics[0].compute()["clip_score/crossflow"].mean == pytest.approx(pair, abs=1e-6)
        assert metrics[1].compute()["clip_score/cosine100"].mean == pytest.approx(of_mean, abs=1e-5)
        assert metrics[2].compute()["clip_score/plain"].mean == pytest.approx(stays, abs=1e-5)


def test_rows_do_not_depend_on_the_batches(clip: Clip) -> None:
    images = pictures(5)
    whole, single = CLIPScore(clip, HESSEL), CLIPScore(clip, HESSEL)
    rows = [row for pair in zip(examples(), images, strict=True) for row in single.update([pair[0]], [pair[1]])]
    assert rows == whole.update(examples(), images)
    assert single.compute() == whole.compute()


def test_captions_are_scored_as_hessels_code_scores_them(clip: Clip, model: CLIPModel, tmp_path: Path) -> None:
    """CLIPScore, and RefCLIPScore: the harmonic mean with the nearest of one to three references; tolerance 1e-5."""
    images, references = pictures(4), [["a ball"], ["a dog", "two dogs"], ["a tower", "night", "a tower at night"]]
    references.append([PROMPTS[4]])
    asked = []
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        asked.append(Example(id=str(index), source=tmp_path / f"{index}.png", target=references[index]))
    captions = PROMPTS[:3] + PROMPTS[4:]
    metric = CaptionCLIPScore(clip)
    rows = metric.update(asked, captions)

    prefixed = [f"A photo depicts {caption}" for caption in captions]
    expected = 2.5 * np.maximum(cosines(model, prepared(images, transforms.ToTensor()), prefixed), 0)
    texts = clip.embed_texts([*prefixed, *[f"A photo depicts {text}" for of_one in references for text in of_one]])
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    candidates, others = texts[:4], np.split(texts[4:], [1, 3, 6])
    nearest = np.array([(candidate @ each.T).max() for candidate, each in zip(candidates, others, strict=True)])
    harmonic = 2 * expected * nearest / (expected + nearest)
    assert [row["clip_score/hessel"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert [row["ref_clip_score"] for row in rows] == pytest.approx(harmonic, abs=1e-5)
    values = metric.compute()
    assert values["ref_clip_score"].mean == pytest.approx(harmonic.mean(), abs=1e-5)
    assert values["clip_score/hessel"].n == 4
    assert harmonic[3] == pytest.approx(2 * expected[3] / (expected[3] + 1), abs=1e-5)


def test_an_example_without_references_is_refused(clip: Clip, tmp_path: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(CrossFlowError, match="reference captions; 1 examples have none, such as a"):
        CaptionCLIPScore(clip).update([Example(id="a", source=tmp_path / "a.png")], ["a ball"])


def test_every_constant_is_in_the_fingerprint(clip: Clip) -> None:
    """No two protocols share one, and a change of any constant but the file's name, which the sha256 says, shows."""
    protocols = [HESSEL, CROSSFLOW, COSINE100, TORCHMETRICS]
    found = [protocol.fingerprint(clip) for protocol in protocols]
    assert all(found.count(each) == 1 for each in found)
    other = {"name": "x", "weight": 3.0, "prefix": "x ", "preprocessing": "cmmd", "floor": "mean"}
    other["tokens"] = "torchmetrics"
    assert other.keys() == {field.name for field in fields(ClipProtocol)} - {"file"}
    for name, value in other.items():
        assert replace(HESSEL, **{name: value}).fingerprint(clip) != HESSEL.fingerprint(clip)
    assert HESSEL.fingerprint(by_hand()) != HESSEL.fingerprint(clip)
    assert CaptionCLIPScore(clip).protocol["weights_sha256"] == clip.weights_sha256
    assert all(isinstance(metric, Metric) for metric in (CLIPScore(clip, HESSEL), CaptionCLIPScore(clip)))


@pytest.mark.parametrize("protocol", [HESSEL, CROSSFLOW, COSINE100, TORCHMETRICS])
def test_the_published_weights_are_asked_for_by_name_and_known_by_sha256(
    protocol: ClipProtocol, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    with pytest.raises(CrossFlowError, match=rf"{protocol.file} .*openaipublic.*{tmp_path}"):
        protocol.load()
    (tmp_path / protocol.file).write_bytes(b"another model")
    with pytest.raises(CrossFlowError, match="has sha256"):
        protocol.load()


@pytest.mark.parametrize("output", ["a caption", np.zeros((4, 4, 3))])
def test_outputs_of_another_kind_are_refused(clip: Clip, output) -> None:
    with pytest.raises(CrossFlowError, match="uint8"):
        CLIPScore(clip, HESSEL).update(examples(["a"]), [output])
