"""GenEval's detector weights, as mmdet 2 wrote them, in transformers' Mask2Former.

The two programs hold one architecture under two sets of names. All tensors keep their values; three kinds change form:
the joined query, key and value of self-attention are three tensors in transformers, and the patch merging of Swin
orders its 4 C inputs channel first (as ``nn.Unfold`` does) where transformers orders them place first. The last has
equal shapes on both sides, so that no loader would notice it.

Source of the architecture: B. Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation",
CVPR 2022.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from crossflow.errors import CrossFlowError, first_few
from crossflow_eval.judges.geneval.pickled import read_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

ENCODER = "model.pixel_level_module.encoder."
PIXEL_DECODER = "model.pixel_level_module.decoder."
TRANSFORMER = "model.transformer_module."
UNUSED = {f"{ENCODER}swin.layernorm.weight", f"{ENCODER}swin.layernorm.bias", "criterion.empty_weight"}
"""What transformers' model holds beyond the file: a norm whose output nothing reads, and the loss's class weights."""

# Source -> target. "#" is a number and "*" the last word, both carried over; "[qkv]" splits the tensor in three.
_BLOCK, _SWIN = "backbone.stages.#.blocks.#.", ENCODER + "swin.encoder.layers.#.blocks.#."
_PIXEL_LAYER, _PIXEL_TARGET = "panoptic_head.pixel_decoder.encoder.layers.#.", PIXEL_DECODER + "encoder.layers.#."
_LAYER, _TARGET = "panoptic_head.transformer_decoder.layers.#.", TRANSFORMER + "decoder.layers.#."
NAMES = {
    "backbone.patch_embed.projection.*": ENCODER + "swin.embeddings.patch_embeddings.projection.*",
    "backbone.patch_embed.norm.*": ENCODER + "swin.embeddings.norm.*",
    _BLOCK + "norm1.*": _SWIN + "layernorm_before.*",
    _BLOCK + "norm2.*": _SWIN + "layernorm_after.*",
    _BLOCK + "attn.w_msa.qkv.*": _SWIN + "attention.[qkv]_proj.*",
    _BLOCK + "attn.w_msa.proj.*": _SWIN + "attention.o_proj.*",
    _BLOCK + "attn.w_msa.relative_position_bias_table": _SWIN
    + "attention.relative_position_bias.relative_position_bias_table",
    _BLOCK + "ffn.layers.0.0.*": _SWIN + "mlp.fc1.*",
    _BLOCK + "ffn.layers.1.*": _SWIN + "mlp.fc2.*",
    "backbone.stages.#.downsample.norm.*": ENCODER + "swin.encoder.layers.#.downsample.norm.*",
    "backbone.stages.#.downsample.reduction.*": ENCODER + "swin.encoder.layers.#.downsample.reduction.*",
    **{f"backbone.norm{i}.*": f"{ENCODER}hidden_states_norms.stage{i + 1}.*" for i in range(4)},
    "panoptic_head.pixel_decoder.input_convs.#.conv.*": PIXEL_DECODER + "input_projections.#.0.*",
    "panoptic_head.pixel_decoder.input_convs.#.gn.*": PIXEL_DECODER + "input_projections.#.1.*",
    "panoptic_head.pixel_decoder.level_encoding.weight": PIXEL_DECODER + "level_embed",
    _PIXEL_LAYER + "attentions.0.sampling_offsets.*": _PIXEL_TARGET + "self_attn.sampling_offsets.*",
    _PIXEL_LAYER + "attentions.0.attention_weights.*": _PIXEL_TARGET + "self_attn.attention_weights.*",
    _PIXEL_LAYER + "attentions.0.value_proj.*": _PIXEL_TARGET + "self_attn.value_proj.*",
    _PIXEL_LAYER + "attentions.0.output_proj.*": _PIXEL_TARGET + "self_attn.output_proj.*",
    _PIXEL_LAYER + "ffns.0.layers.0.0.*": _PIXEL_TARGET + "fc1.*",
    _PIXEL_LAYER + "ffns.0.layers.1.*": _PIXEL_TARGET + "fc2.*",
    _PIXEL_LAYER + "norms.0.*": _PIXEL_TARGET + "self_attn_layer_norm.*",
    _PIXEL_LAYER + "norms.1.*": _PIXEL_TARGET + "final_layer_norm.*",
    "panoptic_head.pixel_decoder.lateral_convs.0.conv.*": PIXEL_DECODER + "adapter_1.0.*",
    "panoptic_head.pixel_decoder.lateral_convs.0.gn.*": PIXEL_DECODER + "adapter_1.1.*",
    "panoptic_head.pixel_decoder.output_convs.0.conv.*": PIXEL_DECODER + "layer_1.0.*",
    "panoptic_head.pixel_decoder.output_convs.0.gn.*": PIXEL_DECODER + "layer_1.1.*",
    "panoptic_head.pixel_decoder.mask_feature.*": PIXEL_DECODER + "mask_projection.*",
    _LAYER + "attentions.0.attn.in_proj_*": _TARGET + "cross_attn.in_proj_*",
    _LAYER + "attentions.0.attn.out_proj.*": _TARGET + "cross_attn.out_proj.*",
    _LAYER + "attentions.1.attn.in_proj_*": _TARGET + "self_attn.[qkv]_proj.*",
    _LAYER + "attentions.1.attn.out_proj.*": _TARGET + "self_attn.out_proj.*",
    _LAYER + "norms.0.*": _TARGET + "cross_attn_layer_norm.*",
    _LAYER + "norms.1.*": _TARGET + "self_attn_layer_norm.*",
    _LAYER + "norms.2.*": _TARGET + "final_layer_norm.*",
    _LAYER + "ffns.0.layers.0.0.*": _TARGET + "fc1.*",
    _LAYER + "ffns.0.layers.1.*": _TARGET + "fc2.*",
    "panoptic_head.transformer_decoder.post_norm.*": TRANSFORMER + "decoder.layernorm.*",
    "panoptic_head.query_embed.*": TRANSFORMER + "queries_embedder.*",
    "panoptic_head.query_feat.*": TRANSFORMER + "queries_features.*",
    "panoptic_head.level_embed.*": TRANSFORMER + "level_embed.*",
    "panoptic_head.cls_embed.*": "class_predictor.*",
    **{
        f"panoptic_head.mask_embed.{2 * i}.*": f"{TRANSFORMER}decoder.mask_predictor.mask_embedder.{i}.0.*"
        for i in range(3)
    },
}
_PATTERNS = [
    (re.compile(re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(weight|bias)")), target)
    for source, target in NAMES.items()
]
OTHER_PROGRAMS = {
    "panoptic_head.transformer_decoder.layers.0.cross_attn.": "the detector as mmdet 3 writes it",
    "model.pixel_level_module.": "a Mask2Former in transformers' own form, such as FAIR's, which is another training",
    "sem_seg_head.": "a Mask2Former in detectron2's form, such as FAIR's, which is another training",
}
"""How weights that are easily taken for GenEval's begin one of their names, and what they are."""


def load_mask2former(path: Path) -> Mask2FormerForUniversalSegmentation:
    """Read an mmdet-2 checkpoint of Mask2Former with a Swin backbone of any size, float32, in evaluation mode.

    Sizes are read off the tensors; only the eight heads of attention are taken for granted.

    Raises:
        CrossFlowError: a file that is no checkpoint, or of another program; any tensor that is missing, unknown or of
            another shape.
    """
    tensors = read_tensors(path)
    for beginning, what in OTHER_PROGRAMS.items():
        if any(name.startswith(beginning) for name in tensors):
            raise CrossFlowError(
                f"{path} holds {what}; GenEval is defined by the file of mmdet 2, whose name ends in -743b7d99.pth."
            )
    from transformers import Mask2FormerForUniversalSegmentation

    mapped = rename(tensors, path)
    try:
        model = Mask2FormerForUniversalSegmentation(_config(tensors))
        missing, unexpected = model.load_state_dict(mapped, strict=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CrossFlowError(f"{path} is no whole Mask2Former of mmdet 2 with a Swin backbone: {error}.") from error
    if lacking := [*unexpected, *sorted(set(missing) - UNUSED)]:
        from transformers import __version__

        raise CrossFlowError(
            f"{path} and the Mask2Former of transformers {__version__} differ in {len(lacking)} tensors: "
            f"{first_few(lacking)}; take a whole file, and the version of transformers that constraints.txt names."
        )
    return model.eval()


def rename(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of mmdet 2 under transformers' names and in its form. CrossFlowError for a name not in ``NAMES``.

    The buffer ``relative_position_index`` follows from the window's size and is left out.
    """
    mapped: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if name.endswith(".relative_position_index"):
            continue
        target = next((_fill(to, found.groups()) for of, to in _PATTERNS if (found := of.fullmatch(name))), None)
        if target is None:
            unknown.append(name)
        elif "[qkv]" in target:
            mapped |= {target.replace("[qkv]", part): t for part, t in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            mapped[target] = place_first(tensor) if ".downsample." in name else tensor
    if unknown:
        raise CrossFlowError(
            f"{path} holds {len(unknown)} tensors that are none of Mask2Former's in mmdet 2: {first_few(unknown)}."
        )
    return mapped


def _fill(target: str, words: tuple[str, ...]) -> str:
    remaining = iter(words)
    return re.sub(r"[#*]", lambda _: next(remaining), target)


def place_first(tensor: Tensor) -> Tensor:
    """Reorder the last axis of a patch merging, [... 4 C], from (channel, row, column) to (column, row, channel)."""
    channels = tensor.shape[-1] // 4
    return tensor.unflatten(-1, (channels, 2, 2)).transpose(-1, -3).flatten(-3)


def _config(tensors: Mapping[str, Tensor]) -> Mask2FormerConfig:
    from transformers import Mask2FormerConfig, SwinConfig

    head, decoder = "panoptic_head.", "panoptic_head.transformer_decoder.layers."
    tables = [
        tensors[f"backbone.stages.{stage}.blocks.0.attn.w_msa.relative_position_bias_table"] for stage in range(4)
    ]
    queries, width = tensors[head + "query_feat.weight"].shape
    return Mask2FormerConfig(
        backbone_config=SwinConfig(
            embed_dim=len(tensors["backbone.patch_embed.projection.weight"]),
            depths=[_count(tensors, f"backbone.stages.{stage}.blocks.") for stage in range(4)],
            num_heads=[table.shape[1] for table in tables],
            window_size=(round(len(tables[0]) ** 0.5) + 1) // 2,
            out_features=["stage1", "stage2", "stage3", "stage4"],  # pyright: ignore[reportCallIssue]
        ),
        feature_size=width,
        hidden_dim=width,
        mask_feature_size=len(tensors[head + "pixel_decoder.mask_feature.weight"]),
        encoder_feedforward_dim=len(tensors[head + "pixel_decoder.encoder.layers.0.ffns.0.layers.0.0.weight"]),
        encoder_layers=_count(tensors, head + "pixel_decoder.encoder.layers."),
        decoder_layers=_count(tensors, decoder) + 1,  # transformers counts the prediction before the first layer
        dim_feedforward=len(tensors[decoder + "0.ffns.0.layers.0.0.weight"]),
        num_attention_heads=8,
        num_queries=queries,
        num_labels=len(tensors[head + "cls_embed.weight"]) - 1,  # pyright: ignore[reportCallIssue]
    )


def _count(tensors: Mapping[str, Tensor], beginning: str) -> int:
    """How many numbers follow ``beginning`` in the names."""
    return len({name[len(beginning) :].partition(".")[0] for name in tensors if name.startswith(beginning)})
