"""One tiny random CLIP in every file format gives the same embeddings; inputs arrive as OpenAI's code has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms
from transformers import CLIPConfig, CLIPModel

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.clip import MEAN, PREPROCESSING, STD, ClipImages, load_clip, tokenize
from crossflow_eval.judges.features import FeatureExtractor

SIDE, WIDTH, DIM = 32, 64, 24
TEXTS = ["a red ball", "Two dogs &amp; a  CAT!", "", "a photo of " + "very " * 200 + "long words"]


def openai_model(*, quick_gelu: bool = True) -> open_clip.CLIP:
    """Random weights that float16 holds exactly, as OpenAI's do, and large enough that the activation matters."""
    model = open_clip.CLIP(
        DIM,
        open_clip.CLIPVisionCfg(layers=2, width=WIDTH, patch_size=8, image_size=SIDE),
        open_clip.CLIPTextCfg(layers=2, width=WIDTH, heads=1),
        quick_gelu=quick_gelu,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_((0.2 * torch.randn(weights.shape, generator=generator)).half())
    return model.eval()


class Holder(nn.Module):
    """A module with the given tensors under their dotted names, as OpenAI's archives hold them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(leaf, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x


def save_archive(state: dict[str, Tensor], path: Path) -> None:
    sizes = {name: torch.tensor(value) for name, value in (("input_resolution", SIDE), ("context_length", 77))}
    half = {name: tensor.half() for name, tensor in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        archive = torch.jit.trace(Holder(half | sizes | {"vocab_size": torch.tensor(49408)}), torch.zeros(1))
        torch.jit.save(archive, path)


def huggingface_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names to Hugging Face's: written from the two lists of names, independently of either library."""
    found = {"logit_scale": state["logit_scale"]}
    found["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    found["text_projection.weight"] = state["text_projection"].T.contiguous()
    found["vision_model.embeddings.class_embedding"] = state["visual.class_embedding"]
    found["vision_model.embeddings.patch_embedding.weight"] = state["visual.conv1.weight"]
    found["vision_model.embeddings.position_embedding.weight"] = state["visual.positional_embedding"]
    found["text_model.embeddings.position_embedding.weight"] = state["positional_embedding"]
    found["text_model.embeddings.token_embedding.weight"] = state["token_embedding.weight"]
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    for ours, theirs in (norms | {"ln_final": "text_model.final_layer_norm"}).items():
        found |= {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts |= {"attn.out_proj": "self_attn.out_proj"}
    for ours, theirs in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        for index in range(2):
            block, layer = f"{ours}.resblocks.{index}", f"{theirs}.encoder.layers.{index}"
            for kind in ("weight", "bias"):
                found |= {f"{layer}.{new}.{kind}": state[f"{block}.{old}.{kind}"] for old, new in parts.items()}
                thirds = state[f"{block}.attn.in_proj_{kind}"].chunk(3)
                found |= {f"{layer}.self_attn.{n}_proj.{kind}": t.clone() for n, t in zip("qkv", thirds, strict=True)}
    return found


def save_folder(state: dict[str, Tensor], path: Path, activation: str = "quick_gelu") -> None:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = CLIPConfig(
        text_config={**sizes, "hidden_act": activation},
        vision_config={**sizes, "hidden_act": activation, "image_size": SIDE, "patch_size": 8},
        projection_dim=DIM,
    )
    CLIPModel(config).save_pretrained(path)
    places = {"text_model.embeddings.position_ids": torch.arange(77)[None]}  # as older releases of transformers wrote
    save_file(huggingface_names(state) | places, path / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    return openai_model()


@pytest.fixture(scope="module")
def files(model: open_clip.CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, state = tmp_path_factory.mktemp("clip"), dict(model.state_dict())
    save_archive(state, folder / "archive.pt")
    torch.save(state, folder / "state.pt")
    save_file(state, folder / "state.safetensors")
    save_folder(state, folder / "folder")
    return folder


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def normalised(image: np.ndarray) -> Tensor:
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])(image)


@pytest.mark.parametrize("name", ["archive.pt", "state.pt", "state.safetensors", "folder"])
def test_every_format_gives_the_models_own_embeddings(name: str, files: Path, model: open_clip.CLIP) -> None:
    clip, images = load_clip(files / name), pictures(*[(SIDE, SIDE)] * 3)
    extractor = clip.images("openai")
    assert isinstance(extractor, FeatureExtractor)
    assert (extractor.name, extractor.dim) == (f"{name.split('.')[0]}-openai", DIM)
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([normalised(image) for image in images])).numpy()
        tokens = model.encode_text(open_clip.tokenize(TEXTS)).numpy()
    assert extractor(images) == pytest.approx(expected, abs=1e-5)
    assert clip.embed_texts(TEXTS) == pytest.approx(tokens, abs=1e-5)


def test_float32_weights_keep_their_digits(files: Path, tmp_path: Path, model: open_clip.CLIP) -> None:
    """open_clip's own builder rounds every weight to float16; a file that has more digits keeps them."""
    state = {name: tensor * (1 + 1e-4) for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "fine.pt")
    image = pictures((SIDE, SIDE))
    fine, rounded = (load_clip(path).images("openai")(image) for path in (tmp_path / "fine.pt", files / "state.pt"))
    again = openai_model()
    again.load_state_dict(state)
    with torch.inference_mode():
        expected = again.encode_image(normalised(image[0])[None]).numpy()
    assert fine == pytest.approx(expected, abs=1e-6)
    assert abs(fine - rounded).max() > 1e-4


def test_plain_gelu_would_be_another_number(files: Path, model: open_clip.CLIP) -> None:
    """The guard is needed: the same weights under open_clip's default activation differ a hundredfold of 1e-5."""
    plain = openai_model(quick_gelu=False)
    plain.load_state_dict(model.state_dict())
    clip, [image] = load_clip(files / "archive.pt"), pictures((SIDE, SIDE))
    with torch.inference_mode():
        images = plain.encode_image(normalised(image)[None]).numpy()
        texts = plain.encode_text(open_clip.tokenize(TEXTS)).numpy()
    assert abs(clip.images("openai")([image]) - images).max() > 1e-3
    assert abs(clip.embed_texts(TEXTS) - texts).max() > 1e-3


def test_a_folder_with_another_activation_is_refused(tmp_path: Path, model: open_clip.CLIP) -> None:
    save_folder(model.state_dict(), tmp_path, activation="gelu")
    with pytest.raises(CrossFlowError, match="uses gelu"):
        load_clip(tmp_path)


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path, model: open_clip.CLIP) -> None:
    """Hugging Face's loader would draw them at random and go on."""
    save_folder(model.state_dict(), tmp_path)
    state = huggingface_names(model.state_dict())
    del state["vision_model.post_layernorm.bias"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CrossFlowError, match=r"no whole CLIPModel: it lacks .*post_layernorm"):
        load_clip(tmp_path)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path, files: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 not weights")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("broken.pt", "broken.safetensors", "other.pt", "none.pt"):
        with pytest.raises(CrossFlowError, match=name):
            load_clip(tmp_path / name)
    with pytest.raises(CrossFlowError, match="sha256"):
        load_clip(files / "state.pt", "00")


@pytest.mark.parametrize("size", [(224, 224), (100, 150), (151, 97), (20, 45), (32, 35), (35, 32)])
def test_openais_preprocessing_is_torchvisions(size: tuple[int, int]) -> None:
    """Exactly: Resize(32, bicubic), CenterCrop(32), ToTensor on a Pillow image."""
    [image] = pictures(size)
    resize = transforms.Resize(SIDE, transforms.InterpolationMode.BICUBIC)
    steps = transforms.Compose([resize, transforms.CenterCrop(SIDE), transforms.ToTensor()])
    prepare, _ = PREPROCESSING["openai"]
    assert torch.equal(prepare(image, SIDE), steps(Image.fromarray(image)))


def test_crossflows_preprocessing_is_torchvisions_on_tensors_without_antialiasing() -> None:
    [image] = pictures((256, 256))
    resize: Callable[..., Tensor] = transforms.Resize(224, antialias=False)
    prepare, _ = PREPROCESSING["crossflow"]
    assert torch.equal(prepare(image, 224), resize(transforms.ToTensor()(image)))
    with pytest.raises(CrossFlowError, match="square"):
        prepare(image[:200], 224)


def test_cmmds_preprocessing_crops_first() -> None:
    """On a wide image the two orders differ at the borders; on a square one they agree."""
    wide, square = pictures((60, 101), (70, 70))
    (cmmd, _), (openai, _) = PREPROCESSING["cmmd"], PREPROCESSING["openai"]
    expected = Image.fromarray(wide).crop((20, 0, 80, 60)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert torch.equal(cmmd(wide, SIDE), transforms.ToTensor()(expected))
    assert torch.equal(cmmd(square, SIDE), openai(square, SIDE))
    assert not torch.equal(cmmd(wide, SIDE), openai(wide, SIDE))


def test_an_unknown_preprocessing_is_named(files: Path) -> None:
    with pytest.raises(CrossFlowError, match="openai"):
        ClipImages(load_clip(files / "state.pt"), "opnai")


def test_a_caption_of_200_words_keeps_its_end_token() -> None:
    """77 = start + 75 + end, as OpenAI's tokenize(truncate=True); the cut is of tokens, not of words."""
    start, end = 49406, 49407
    encode = open_clip.SimpleTokenizer().encode
    caption, exact = " ".join(f"word{index}" for index in range(200)), " ".join(["ball"] * 75)
    assert len(encode(caption)) > 75 and len(encode(exact)) == 75
    assert tokenize([caption])[0].tolist() == [start, *encode(caption)[:75], end]
    assert tokenize([exact])[0].tolist() == [start, *encode(exact), end]
    assert tokenize(["a red ball"])[0].tolist() == [start, *encode("a red ball"), end] + [0] * 72
