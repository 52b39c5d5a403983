"""Configs of files that earlier releases wrote, in today's form."""

from collections.abc import Mapping
from typing import Any

from crossflow.errors import CrossFlowError

FIRST = "1"
"""The version of files whose config said by numbers what stands at the two ends; 0 was a term of the loss left out."""


def migrated(config: Any, version: str) -> Any:
    """The config of a file of ``version``, as plain JSON, as it would be written today.

    What is no config of that version stays as it is, or keeps its odd fields, so that reading it names them.
    CrossFlowError where a field that the version needs is not there, or is of another type.
    """
    if version != FIRST or not isinstance(config, Mapping):
        return config
    try:
        return _first(dict(config))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CrossFlowError(f"it is no config of version {version} ({type(error).__name__}: {error}).") from error


def _first(old: dict[str, Any]) -> dict[str, Any]:
    encoder, target = old.pop("encoder"), _kind(old.pop("autoencoder"), "patch-pca")
    reads = _reads(old, target["kind"])
    null_rate = old.pop("null_rate", 0.1)
    new = {
        "shape": old.pop("shape"),
        "reads": reads,
        "target": target,
        "backbone": _kind(old.pop("backbone"), "transformer"),
        "guidance": {"kind": "indicator", "null_rate": null_rate} if null_rate else {"kind": "none"},
    }
    condition, losses = old.pop("condition", "attention"), _losses(old, encoder)
    if encoder is None:
        new |= {"kind": "standard", "condition": condition}
    else:
        new |= {"kind": "crossflow", "source": _kind(encoder, "variational"), "losses": losses}
    return new | old  # path, times, stage_weights and sampling are as they were


def _kind(config: Mapping[str, Any], default: str) -> dict[str, Any]:
    """The config with the kind that those of the embedded world did not say."""
    return {"kind": default, **config}


def _reads(old: dict[str, Any], target: str) -> dict[str, Any]:
    image = old.pop("image", None)
    tokens = {
        "kind": "tokens",
        "model": old.pop("text", "minilm"),
        "count": old.pop("token_count", 16),
        "width": old.pop("token_width", 384),
    }
    if image is None:
        return tokens
    return {"kind": "image", "shape": image, "name": "small image" if target == "pixels" else "image"}


def _losses(old: dict[str, Any], encoder: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The terms whose weights were not 0."""
    kl = {"kind": "kl", "weight": old.pop("kl_weight", 1e-2), "form": old.pop("kl_form", "official")}
    contrast = {
        "kind": "contrast",
        "weight": old.pop("contrastive_weight", 1.0),
        "tower": old.pop("tower", "latents"),
        "scale": old.pop("contrastive_scale", "exp"),
    }
    terms = [kl, contrast]
    if weight := old.pop("reconstruction_weight", 0.0):
        terms.append({"kind": "image-reconstruction", "weight": weight, "patch": (encoder or {})["patch"]})
    return [term for term in terms if term["weight"]]
