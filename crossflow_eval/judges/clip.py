"""OpenAI's CLIP as a judge: images and texts to embeddings, from whichever file format its weights came in.

Both towers run in float32 and with QuickGELU, which these weights were trained with; a file that says otherwise is
refused. Captions are cut as OpenAI's own code cuts them: a start token, at most 75 tokens, and always the end token,
from which the text is read (libraries that cut at 77 lose it). ``TOKENS`` and ``PREPROCESSING`` name the ways in which
libraries differ. Embeddings are not brought to unit length.
"""

import math
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.pretrained import UNREADABLE, load_tensors
from crossflow_eval.judges.local_weights import checked_sha256, load_folder, reason
from crossflow_eval.judges.precise import in_float32

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of each channel on the 0-1 scale, as OpenAI's preprocessing subtracts and divides."""

TOKENS = {
    "openai": {
        "tokenizer": "OpenAI's: ftfy, HTML entities, lower case; a typed <|startoftext|> or <|endoftext|> is the token",
        "truncation": "77 tokens, the last of them the end token",
    },
    "torchmetrics": {
        "tokenizer": "transformers' CLIPTokenizer: NFC, lower case, no ftfy, entities kept",
        "truncation": "77 tokens, the end token lost (torchmetrics 1.9)",
    },
}
"""The ways to cut a text into tokens, as protocols say them."""
LENGTH, START, END = 77, "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Towers:
    """The two networks: normalised images of ``side`` pixels, and tokens, to embeddings of ``dim`` numbers."""

    image: Callable[[Tensor], Tensor]
    text: Callable[[Tensor], Tensor]
    side: int
    dim: int
    device: str


class Clip:
    """A CLIP model, made by :func:`load_clip`. ``name`` is the stem of its file."""

    def __init__(self, towers: Towers, name: str, weights_sha256: str) -> None:
        self.towers, self.name, self.weights_sha256 = towers, name, weights_sha256
        self.dim = towers.dim

    def embed_texts(self, texts: Sequence[str], tokens: str = "openai") -> np.ndarray:
        """The embeddings, float32 [n dim], of n texts, cut into tokens by one of ``TOKENS``."""
        with in_float32():
            return self.towers.text(tokenize(texts, tokens).to(self.towers.device)).cpu().numpy()

    def images(self, preprocessing: str) -> "ClipImages":
        """The image tower as an extractor, behind one of ``PREPROCESSING``."""
        return ClipImages(self, preprocessing)


class ClipImages:
    """A :class:`crossflow_eval.judges.features.FeatureExtractor`: uint8 images of any size to float32 [n dim].

    ``fingerprint`` is what can change a number beside the weights, as plain JSON.
    """

    def __init__(self, clip: Clip, preprocessing: str) -> None:
        if preprocessing not in PREPROCESSING:
            raise unknown("CLIP preprocessing", preprocessing, PREPROCESSING)
        self._towers, (self._prepare, resize) = clip.towers, PREPROCESSING[preprocessing]
        self.name, self.weights_sha256, self.dim = f"{clip.name}-{preprocessing}", clip.weights_sha256, clip.dim
        self.fingerprint: Mapping[str, Any] = {
            "resize": f"{resize}, to {clip.towers.side} px",
            "activation": "QuickGELU",
            "precision": "float32",
        }

    def __call__(self, images: Sequence[np.ndarray | Image.Image]) -> np.ndarray:
        """The embeddings, float32 [n dim], of n images; "openai" alone takes Pillow's, in the mode they are stored in.

        It resizes them in that mode, and makes them RGB last: palette and 1-bit images by their nearest pixels.
        """
        batch = torch.stack([self._prepare(image, self._towers.side) for image in images])
        batch = (batch - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with in_float32():
            return self._towers.image(batch.to(self._towers.device)).cpu().numpy()


def tokenize(texts: Sequence[str], tokens: str = "openai") -> Int[Tensor, "n 77"]:
    """The tokens of each text by one of ``TOKENS``, zeros after the last."""
    if tokens not in TOKENS:
        raise unknown("way of cutting texts into tokens", tokens, TOKENS)
    cut = _openai_tokens if tokens == "openai" else _torchmetrics_tokens
    rows = torch.zeros(len(texts), LENGTH, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        found = cut(text)
        row[: len(found)] = torch.tensor(found)
    return rows


def _openai_tokens(text: str) -> list[int]:
    encode, start, end = _openai_tokenizer()
    return [start, *encode(text)[: LENGTH - 2], end]


@cache
def _openai_tokenizer() -> tuple[Callable[[str], list[int]], int, int]:
    """open_clip's tokenizer with the special tokens of OpenAI's, which it calls otherwise; and the ids of the two."""
    import regex
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    first, last = tokenizer.all_special_ids
    del tokenizer.encoder["<start_of_text>"], tokenizer.encoder["<end_of_text>"]
    tokenizer.encoder |= {START: first, END: last}
    tokenizer.cache = {START: START, END: END}
    special = f"{regex.escape(START)}|{regex.escape(END)}"
    _, rest = tokenizer.pat.pattern.split("<end_of_text>|", 1)
    tokenizer.pat = regex.compile(f"{special}|{rest}", regex.IGNORECASE)
    return tokenizer.encode, first, last


def _torchmetrics_tokens(text: str) -> list[int]:
    return _transformers_tokenizer()(text)[:LENGTH]


@cache
def _transformers_tokenizer() -> Callable[[str], list[int]]:
    """The tokenizer of ``openai/clip-vit-*`` as transformers makes it, whichever its version."""
    from open_clip import SimpleTokenizer
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    theirs = SimpleTokenizer()
    first, last = theirs.all_special_ids
    vocabulary = {word: index for word, index in theirs.encoder.items() if index < first} | {START: first, END: last}
    merges = [(left, right) for left, right in sorted(theirs.bpe_ranks, key=lambda pair: theirs.bpe_ranks[pair])]
    tokenizer = Tokenizer(
        BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END)
    )
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in (START, END)])
    return lambda text: [first, *tokenizer.encode(text, add_special_tokens=False).ids, last]


def _openai(image: np.ndarray | Image.Image, side: int) -> Float[Tensor, "3 s s"]:
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    width, height = _shrunk(picture.width, picture.height, side)
    left, top = round((width - side) / 2), round((height - side) / 2)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return _to_tensor(np.asarray(picture.crop((left, top, left + side, top + side)).convert("RGB")))


def _torchmetrics(image: np.ndarray, side: int) -> Float[Tensor, "3 s s"]:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    width, height = _shrunk(image.shape[1], image.shape[0], side)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    resized = resize(pixels, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized[:, top : top + side, left : left + side].float() / 255


def _shrunk(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height of an image whose shorter side becomes ``side``; the longer is rounded down."""
    short = min(width, height)
    return int(side * width / short), int(side * height / short)


def _cmmd(image: np.ndarray, side: int) -> Float[Tensor, "3 s s"]:
    height, width = image.shape[:2]
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    picture = Image.fromarray(image[top : top + short, left : left + short])
    return _to_tensor(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)))


def _crossflow(image: np.ndarray, side: int) -> Float[Tensor, "3 s s"]:
    if image.shape[0] != image.shape[1]:
        raise CrossFlowError(
            f"CrossFlow's CLIP score is of square images, got {image.shape[1]} x {image.shape[0]} pixels."
        )
    pixels = _to_tensor(image)[None]
    return torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)[0]


def _to_tensor(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


PREPROCESSING: dict[str, tuple[Callable[[Any, int], Tensor], str]] = {
    "openai": (_openai, "Pillow bicubic of the short side, then the centre, rounded; uint8, RGB last"),
    "torchmetrics": (
        _torchmetrics,
        "torchvision bicubic of the short side, antialiased, then the centre, rounded down; uint8 (transformers 5)",
    ),
    "cmmd": (_cmmd, "the centre square, then Pillow bicubic; uint8"),
    "crossflow": (_crossflow, "bilinear without antialiasing of the whole square image; float32"),
}
"""How an image comes to the model's size: OpenAI's way, torchmetrics', CMMD's, and CrossFlow's evaluation code's."""


def load_clip(path: Path, sha256: str = "", *, device: str = "cpu") -> Clip:
    """Read OpenAI's CLIP from its published archive, from a state dict, or from a Hugging Face folder.

    ``path``: OpenAI's TorchScript ``.pt``; a ``.pt``, ``.bin`` or ``.safetensors`` with the names of OpenAI and
    open_clip, which says nothing of its activation and is taken to be OpenAI's weights; or a folder with
    ``config.json`` and ``model.safetensors``. ``sha256``: the digits its file must begin with.

    Raises:
        CrossFlowError: another sha256; no such file; not a CLIP; a model trained with another activation.
    """
    digest = checked_sha256(path / "model.safetensors" if path.is_dir() else path, sha256)
    towers = _from_folder(path, device) if path.is_dir() else _from_file(path, device)
    return Clip(towers, path.name if path.is_dir() else path.stem, digest)


def _from_file(path: Path, device: str) -> Towers:
    from open_clip.model import build_model_from_openai_state_dict

    state = _read_state_dict(path)
    try:
        model = build_model_from_openai_state_dict(state, quick_gelu=True, cast_dtype=torch.float32).float()
        model.load_state_dict(state)  # once more: open_clip's builder rounds to float16
    except (KeyError, RuntimeError) as error:
        raise CrossFlowError(f"{path} is not a CLIP vision transformer of OpenAI's form: {reason(error)}.") from error
    model.eval().to(device)
    side = state["visual.conv1.weight"].shape[-1] * math.isqrt(len(state["visual.positional_embedding"]) - 1)
    return Towers(model.encode_image, model.encode_text, side, state["text_projection"].shape[1], device)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not _is_torchscript(path):
        return load_tensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # OpenAI's format will not change
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except UNREADABLE as error:
        raise CrossFlowError(f"Cannot read the CLIP weights {path}: {reason(error)}.") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _from_folder(folder: Path, device: str) -> Towers:
    from transformers import CLIPModel

    model = load_folder(CLIPModel, folder)
    for config in (model.config.text_config, model.config.vision_config):
        if config.hidden_act != "quick_gelu":
            raise CrossFlowError(
                f"{folder} uses {config.hidden_act} where OpenAI's CLIP, which scores name, has quick_gelu."
            )
    model.to(device)
    return Towers(
        lambda images: model.visual_projection(model.vision_model(pixel_values=images).pooler_output),
        lambda tokens: model.text_projection(model.text_model(input_ids=tokens).pooler_output),
        model.config.vision_config.image_size,
        model.config.projection_dim,
        device,
    )
