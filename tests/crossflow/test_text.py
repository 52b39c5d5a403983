"""CLIP and T5 give what transformers gives when it is called as the authors call it, from files of the real formats."""

import io
import json
import random
import runpy
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crossflow.errors import CrossFlowError
from crossflow.modalities.modality import TextEmbedder
from crossflow.modalities.text_embedders import CHUNK, ClipText, T5Text

PROMPTS = [
    "a photo of a red ball above a blue box",
    "",
    "A cat’s “Toy”,  ünï 漢字 &amp; 12th",  # noqa: RUF001
    "three purple stars near the green ring " * 20,
]
TEXT = "a photo of the red ball above blue box under green ring near three purple stars cat dog house tree"


def numbered(model: torch.nn.Module) -> torch.nn.Module:
    """The model with weights of a size that makes every place matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def openai():
    """CLIP's tokenizer as OpenAI wrote it, which open_clip carries; run alone, because open_clip loads slowly."""
    folder = Path(find_spec("open_clip").origin).parent
    return runpy.run_path(str(folder / "tokenizer.py"))["SimpleTokenizer"]()


@pytest.fixture(scope="module")
def clip_folder(openai, tmp_path_factory):
    """A whole CLIPModel, tiny but for its vocabulary, which is CLIP's own."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): number for piece, number in openai.encoder.items()}
    merges = sorted(openai.bpe_ranks, key=openai.bpe_ranks.__getitem__)
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(folder)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(text_config=tiny, vision_config={**tiny, "image_size": 32, "patch_size": 16})
    numbered(CLIPModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder):
    return ClipText(clip_folder)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """An encoder with the tokenizer in T5's own format, the one that the authors' folder has."""
    from sentencepiece import SentencePieceTrainer
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    draw = random.Random(0)
    text = (" ".join(draw.choices(TEXT.split(), k=8)) for _ in range(300))
    pieces = io.BytesIO()
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    SentencePieceTrainer.train(
        sentence_iterator=text, model_writer=pieces, vocab_size=40, model_type="unigram", minloglevel=2, **ids
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    config = T5Config(
        vocab_size=160, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    numbered(T5EncoderModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(t5_folder):
    return T5Text(t5_folder)


def clip_ids(openai, prompts, count=77):
    """OpenAI's ids, padded with the end token, as the authors' tokenizer pads, and the mask."""
    ids = openai(prompts, context_length=count)
    ends = (ids == openai.eot_token_id).int().argmax(1)
    mask = torch.arange(count) <= ends[:, None]
    return torch.where(mask, ids, openai.eot_token_id), mask


def test_clip_is_transformers_called_without_a_mask(clip, clip_folder, openai):
    """At all 77 places, those of padding included; with the mask, padding would be other numbers."""
    from transformers import CLIPTextModel

    assert isinstance(clip, TextEmbedder)
    assert clip.width == 32
    tokens, mask = clip.embed(PROMPTS, 77)
    ids, expected_mask = clip_ids(openai, PROMPTS)
    assert torch.equal(mask, expected_mask)
    assert mask.sum(1).tolist()[:2] == [12, 2]
    model = CLIPTextModel.from_pretrained(clip_folder, local_files_only=True).eval()
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state
        masked = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(tokens, expected, atol=1e-5)
    assert not torch.allclose(tokens[1], masked[1], atol=0.1)
    assert tokens.dtype == torch.float32


def test_a_cut_prompt_keeps_its_end_token(clip, openai):
    ids, mask = clip_ids(openai, PROMPTS[3:])
    assert mask.all()
    assert ids[0, -1] == openai.eot_token_id
    tokens, own_mask = clip.embed(PROMPTS[3:], 77)
    assert own_mask.all()
    assert torch.equal(clip.embed([PROMPTS[3] + " and more"], 77)[0], tokens)


def test_fewer_places_are_the_first_of_more(clip):
    """Attention is causal; more places than the model has are refused."""
    few, mask = clip.embed(PROMPTS[:2], 16)
    assert few.shape == (2, 16, 32)
    assert torch.equal(mask, clip.embed(PROMPTS[:2], 77)[1][:, :16])
    assert torch.allclose(few, clip.embed(PROMPTS[:2], 77)[0][:, :16], atol=1e-5)
    with pytest.raises(CrossFlowError, match="has places for 77 tokens, but 78 are asked"):
        clip.embed(PROMPTS, 78)


def test_the_text_model_alone_gives_the_same(clip, clip_folder, tmp_path):
    from transformers import CLIPTextModel

    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(clip_folder / name, tmp_path)
    CLIPTextModel.from_pretrained(clip_folder, local_files_only=True).save_pretrained(tmp_path)
    alone = ClipText(str(tmp_path))
    assert alone.width == 32
    assert torch.equal(alone.embed(PROMPTS, 77)[0], clip.embed(PROMPTS, 77)[0])


def test_clip_reads_the_tokenizer_in_its_older_format(clip, clip_folder, openai, tmp_path):
    """vocab.json and merges.txt, as transformers wrote them before version 5 for a tokenizer in Python."""
    shutil.copytree(clip_folder, tmp_path / "clip")
    written = json.loads((tmp_path / "clip" / "tokenizer.json").read_text())["model"]
    (tmp_path / "clip" / "tokenizer.json").unlink()
    (tmp_path / "clip" / "vocab.json").write_text(json.dumps(written["vocab"]))
    merges = [" ".join(pair) for pair in written["merges"]]
    (tmp_path / "clip" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    older = ClipText(tmp_path / "clip")
    assert older.lengths(PROMPTS) == clip.lengths(PROMPTS)
    assert torch.equal(older.embed(PROMPTS[:3], 77)[0], clip.embed(PROMPTS[:3], 77)[0])


def t5_expected(folder, texts, count, dtype=torch.float32):
    """Ids by sentencepiece, the model by transformers."""
    from sentencepiece import SentencePieceProcessor
    from transformers import T5EncoderModel

    pieces = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    rows = [[*ids[: count - 1], 1] for ids in pieces.encode(texts)]
    ids = torch.tensor([row + [0] * (count - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (count - len(row)) for row in rows])
    model = T5EncoderModel.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()
    with torch.no_grad():
        return 10.0 * model(input_ids=ids, attention_mask=mask).last_hidden_state.float(), mask.bool()


CLEANED = ["a photo of a red ball above a blue box", "", "a cat's toy, ünï ball", PROMPTS[3].strip()]


def test_t5_is_ten_times_transformers_with_the_mask(t5, t5_folder):
    """Captions cleaned, padding kept as the model answers there."""
    messy = ["  A Photo of a <b>RED</b> ball above a blue box!"[:-1], "", "a cat’s toy,ünï 漢字 ball", PROMPTS[3]]  # noqa: RUF001
    tokens, mask = t5.embed(messy, 77)
    expected, expected_mask = t5_expected(t5_folder, CLEANED, 77)
    assert isinstance(t5, TextEmbedder)
    assert t5.width == 32
    assert torch.equal(mask, expected_mask)
    assert mask.sum(1).tolist() == [min(length, 77) for length in t5.lengths(messy)]
    assert torch.allclose(tokens, expected, rtol=1e-4, atol=1e-4)
    assert tokens[~mask].abs().mean() > 1
    assert torch.equal(tokens, t5.embed(CLEANED, 77)[0])


def test_t5_in_bfloat16(t5_folder):
    tokens, _ = T5Text(t5_folder, dtype=torch.bfloat16).embed(CLEANED, 77)
    assert tokens.dtype == torch.float32
    assert torch.allclose(tokens, t5_expected(t5_folder, CLEANED, 77, torch.bfloat16)[0], rtol=0.05, atol=0.5)
    assert torch.equal(tokens / 10, (tokens / 10).bfloat16().float())


def test_t5_reads_a_tokenizer_of_the_newer_format(t5, t5_folder, tmp_path):
    """tokenizer.json, made of the same pieces, gives the same ids."""
    from sentencepiece import SentencePieceProcessor
    from transformers import T5Tokenizer

    pieces = SentencePieceProcessor(model_file=str(t5_folder / "spiece.model"))
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    T5Tokenizer(vocab=vocabulary).save_pretrained(tmp_path)
    for name in ["config.json", "model.safetensors"]:
        shutil.copy(t5_folder / name, tmp_path)
    newer = T5Text(tmp_path)
    assert newer.lengths(CLEANED) == t5.lengths(CLEANED)
    assert torch.equal(newer.embed(CLEANED, 77)[0], t5.embed(CLEANED, 77)[0])


def test_a_whole_t5_and_pickled_shards_give_the_same(t5, t5_folder, tmp_path):
    """The authors' folder has pickles in shards; a whole T5 holds the encoder's weights among others."""
    weights = load_file(t5_folder / "model.safetensors")
    names = sorted(weights)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for shard, part in shards.items():
        torch.save({**{name: weights[name] for name in part}, f"decoder.{shard}": torch.zeros(1)}, tmp_path / shard)
    index = {name: shard for shard, part in shards.items() for name in part}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for name in ["config.json", "spiece.model"]:
        shutil.copy(t5_folder / name, tmp_path)
    assert torch.equal(T5Text(tmp_path).embed(CLEANED, 77)[0], t5.embed(CLEANED, 77)[0])


@pytest.mark.parametrize("embedder", ["clip", "t5"])
def test_an_embedding_does_not_depend_on_its_batch(embedder, request):
    """Over the bound of a chunk, to float32's rounding of numbers of size one (T5: ten); fit for training on."""
    embedder = request.getfixturevalue(embedder)
    prompts = [PROMPTS[i % 4] for i in range(CHUNK + 3)]
    tokens, mask = embedder.embed(prompts, 20)
    for i in range(4):
        alone, own_mask = embedder.embed([PROMPTS[i]], 20)
        for row in [i, CHUNK - 4 + i if i else CHUNK]:
            assert torch.allclose(alone[0], tokens[row], rtol=1e-5, atol=1e-4)
            assert torch.equal(own_mask[0], mask[row])
    assert not tokens.requires_grad
    assert not tokens.is_inference()


def test_lengths_count_before_truncation(clip, t5, openai):
    assert clip.lengths(PROMPTS) == [len(openai.encode(prompt)) + 2 for prompt in PROMPTS]
    assert clip.lengths(PROMPTS)[3] == 142
    assert t5.lengths(["", "A, A"]) == [1, t5.lengths(["a, a"])[0]]
    assert t5.lengths([PROMPTS[3]])[0] > 77
