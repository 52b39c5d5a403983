"""What a run takes from a model and hands to its metrics: exactly that, in order, or a sentence."""

import hashlib
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.recordings import Recording
from crossflow_eval.outputs import KINDS, find_kind
from crossflow_eval.runs import run, store
from crossflow_eval.types import Example, Suite, Value


class Collector:
    """A metric that remembers what it was given, batch by batch."""

    taken: ClassVar[list] = []

    def __init__(self):
        self.protocol, self.higher_is_better = {}, {"count": True}

    def update(self, examples, outputs):
        Collector.taken.append([(example.id, output) for example, output in zip(examples, outputs, strict=True)])
        return [{"seen": True}] * len(outputs)

    def compute(self):
        return {"count": Value(mean=1.0, n=1)}


class Speaker:
    """Answers of whatever kind it was told to."""

    name = "speaker"

    def __init__(self, answer):
        self.answer, self.identity = answer, {}

    def generate(self, sources, seeds):
        return [self.answer(source, seed) for source, seed in zip(sources, seeds, strict=True)]


def suite_of(kind: str, outputs_per_example: int = 2):
    examples = [Example(id=f"e{i}", source=f"s{i}", target=np.arange(i)) for i in range(5)]
    return Suite(
        name="made-up",
        version="1",
        task="t2i",
        output=kind,
        examples=lambda root: examples,
        metrics={"collector": Collector},
        outputs_per_example=outputs_per_example,
    )


def run_of(suite, model, folder):
    return run.run(suite, model, run.make_settings(suite, model), run.list_examples(suite, None), folder)


@pytest.mark.parametrize("kind", ["png", "npy", "mel.npy", "webp", "txt"])
def test_metrics_get_back_exactly_what_the_model_gave_in_order(tmp_path, monkeypatch, kind):
    """Law: the files are lossless, and outputs come example by example, k by k, in batches."""
    monkeypatch.setattr(Collector, "taken", [])
    monkeypatch.setattr(run, "SCORE_BATCH", 4)
    answers = {
        "png": lambda s, seed: np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8),
        "npy": lambda s, seed: np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32) / np.float32(0.1),
        "mel.npy": lambda s, seed: np.random.default_rng(seed).normal(size=(32, 32)).astype(np.float32),
        "webp": lambda s, seed: np.random.default_rng(seed).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8),
        "txt": lambda s, seed: f"{s}: ünïcode\n{seed}\r\n",
    }
    result = run_of(suite_of(kind), Speaker(answers[kind]), tmp_path / "run")
    assert [len(batch) for batch in Collector.taken] == [4, 4, 2]
    taken = [pair for batch in Collector.taken for pair in batch]
    assert [example for example, _ in taken] == [f"e{i}" for i in range(5) for _ in range(2)]
    for at, (example, output) in enumerate(taken):
        given = answers[kind](f"s{at // 2}", run.output_seed(0, example, at % 2))
        assert output == given if kind == "txt" else np.array_equal(output, given)
    assert result.n == 10
    rows = [
        json.loads(line) for line in next((tmp_path / "run").glob("n-*/per_example.jsonl")).read_text().splitlines()
    ]
    assert rows[3] == {"id": "e1", "index": 1, "output": f"e1-1.{kind}", "prompt": "s1", "seen": True}


@pytest.mark.parametrize(
    ("kind", "answer", "got"),
    [
        ("png", np.zeros((4, 4, 3), np.float32) - 1, r"float32 \[4, 4, 3\] from -1 to -1, not from 0 to 1,"),
        ("png", np.full((4, 4, 3), np.nan), r"float64 \[4, 4, 3\] from nan to nan, not from 0 to 1,"),
        ("png", torch.full((3, 4, 4), 255.0), r"float32 \[3, 4, 4\] from 255 to 255, not from 0 to 1,"),
        ("png", np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        ("png", torch.zeros((1, 3, 4, 4)), r"float32 \[1, 3, 4, 4\]"),
        ("png", np.zeros((4, 4, 3), int), r"int64 \[4, 4, 3\]"),
        ("png", Image.new("RGBA", (4, 4)), "a PIL image of mode RGBA, which is not RGB"),
        ("npy", np.zeros((4, 4), int), r"int64 \[4, 4\]"),
        ("npy", Image.new("I;16", (4, 4)), "Image"),
        ("mel.npy", np.full((32, 32), np.inf), r"float32 \[32, 32\]"),
        ("mel.npy", np.zeros((64, 32), np.float32), r"float32 \[64, 32\]"),
        ("webp", np.zeros((1, 4, 4, 3), np.uint8), r"uint8 \[1, 4, 4, 3\]"),
        ("webp", np.zeros((4, 4, 3), np.uint8), r"uint8 \[4, 4, 3\]"),
        ("webp", np.full((2, 3, 4, 4), 2.0), r"float64 \[2, 3, 4, 4\] from 2 to 2, not from 0 to 1,"),
        ("txt", 3, "int"),
        ("txt", "half \ud83d", "str"),
    ],
)
def test_an_output_of_another_kind_is_refused(tmp_path, kind, answer, got):
    with pytest.raises(CrossFlowError, match=f"speaker gave {got} where the suite needs"):
        run_of(suite_of(kind), Speaker(lambda s, seed: answer), tmp_path / "run")


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
FILM = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
DEPTH = np.random.default_rng(0).random((5, 7), dtype=np.float32)


@pytest.mark.parametrize(
    ("kind", "answer", "kept"),
    [
        ("png", Image.fromarray(PIXELS), PIXELS),
        ("png", Image.fromarray(PIXELS[..., 0]), PIXELS[..., :1].repeat(3, 2)),
        ("png", torch.from_numpy(PIXELS), PIXELS),
        ("png", torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()), PIXELS),
        ("png", (torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()) / 255).requires_grad_(), PIXELS),
        ("png", PIXELS / 255, PIXELS),
        ("npy", DEPTH.astype(np.float64), DEPTH),
        ("npy", torch.from_numpy(DEPTH)[None], DEPTH),
        ("npy", torch.from_numpy(DEPTH).bfloat16(), torch.from_numpy(DEPTH).bfloat16().float().numpy()),
        ("npy", Image.fromarray(DEPTH), DEPTH),
        ("webp", torch.from_numpy(FILM.transpose(0, 3, 1, 2).copy()) / 255, FILM),
    ],
    ids=range(11),
)
def test_answers_of_pil_numpy_and_torch_are_kept_as_one_kind(tmp_path, monkeypatch, kind, answer, kept):
    monkeypatch.setattr(Collector, "taken", [])
    run_of(suite_of(kind), Speaker(lambda s, seed: answer), tmp_path / "run")
    given = Collector.taken[0][0][1]
    assert given.dtype == kept.dtype and np.array_equal(given, kept)


def test_a_model_that_gives_too_few_outputs_is_refused(tmp_path):
    model = Speaker(None)
    model.generate = lambda sources, seeds: []
    with pytest.raises(CrossFlowError, match="gave 0 outputs for 10 sources"):
        run_of(suite_of("txt"), model, tmp_path / "run")


@pytest.mark.parametrize("ids", [["a", "A"], ["a/b"], [""], [".a"], ["a", "a"]])
def test_ids_that_cannot_name_files_apart_are_refused(ids):
    suite = Suite(
        name="s",
        version="1",
        task="t2i",
        output="txt",
        examples=lambda root: [Example(id=each, source="s") for each in ids],
        metrics={},
    )
    with pytest.raises(CrossFlowError, match="example ids"):
        run.list_examples(suite, None)


def test_the_data_hash_sees_content_and_not_places(tmp_path):
    def sha(content: bytes, name: str = "a.bin", folder: str = "one", tag: str = "x") -> str:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        example = Example(id="1", source=path, target={"depth": np.ones(3)}, tags={"t": tag})
        return store.Examples([example]).sha256

    same = sha(b"x")
    assert sha(b"x", folder="two") == same
    assert len({same, sha(b"y"), sha(b"x", name="b.bin"), sha(b"x", tag="y")}) == 4


def test_a_source_file_is_read_once_for_all_records_and_once_more_when_a_run_ends(tmp_path, monkeypatch):
    """examples.jsonl, the hash of the data and a second run share one reading; each run then looks for changes."""
    files = [tmp_path / f"{name}.bin" for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode())
    read, before = [], Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *given, **named: (read.append(path), before(path, *given, **named))[1]
    )
    examples = store.Examples([Example(id=str(i), source=files[i % 2], target=files[0]) for i in range(4)])
    suite, model = suite_of("txt", 1), Speaker(lambda s, seed: "said")
    results = [
        run.run(suite, model, run.make_settings(suite, model), examples, tmp_path / out) for out in ("one", "two")
    ]
    assert sorted(path for path in read if path.suffix == ".bin") == sorted(3 * files)
    listed = (tmp_path / "one" / "examples.jsonl").read_bytes()
    assert {result.data_sha256 for result in results} == {hashlib.sha256(listed).hexdigest()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_kept_without_loss_and_shown_small(kind):
    outputs = {
        "png": np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8),
        "npy": np.random.default_rng(0).uniform(0, 100, (30, 50)).astype(np.float32),
        "mel.npy": np.random.default_rng(0).uniform(-5, 4, (32, 32)).astype(np.float32),
        "webp": np.random.default_rng(0).integers(0, 256, (8, 30, 50, 3), dtype=np.uint8),
        "txt": "ünïcode\r\n",
        "tokens": np.random.default_rng(0).normal(size=(4, 7, 5)).astype(np.float16),
        "wav": Recording(np.random.default_rng(0).normal(size=(700, 2)).astype(np.float32), 44_100),
    }
    taken = {name for name, output in outputs.items() if KINDS[kind].check(output)}
    assert taken == {kind, "mel.npy"} if kind == "npy" else taken == {kind}, "the array of a sound may be of depth, too"
    kept, output = KINDS[kind].decode(KINDS[kind].encode(outputs[kind])), outputs[kind]
    if kind == "wav":
        kept, output = (np.append(each.samples, each.rate) for each in (kept, output))
    assert np.array_equal(kept, output)
    picture = KINDS[kind].picture
    if picture is not None:
        small = picture(outputs[kind], 20)
        assert small.dtype == np.uint8 and small.ndim == 3 and max(small.shape) <= 20


def test_a_kind_is_found_by_the_longest_suffix_that_is_one():
    names = {"a-0.npy": "npy", "a.mel-0.npy": "npy", "a-0.mel.npy": "mel.npy", "mel.npy": "mel.npy", "a.b-0.png": "png"}
    assert {name: find_kind(name) for name in names} == {name: KINDS[kind] for name, kind in names.items()}
    assert find_kind("a-0.npz") is None and find_kind("camel.npy") is KINDS["npy"]


def test_a_sound_is_drawn_with_time_to_the_right_and_pitch_upwards():
    sound = np.full((32, 32), -5, dtype=np.float32)
    sound[30, 2] = 4
    drawn = KINDS["mel.npy"].picture(sound, 192)
    brightest = np.unravel_index(drawn.sum(axis=2).argmax(), (32, 32))
    assert brightest == (1, 2)


def test_the_frames_of_a_film_are_drawn_in_their_order():
    film = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    strip = KINDS["webp"].picture(film, 192)
    assert strip.shape == (65, 131, 3)
    assert strip[np.ix_((0, 33), (0, 33, 66, 99))][..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (strip[32] == 255).all() and (strip[:, 32] == 255).all()
