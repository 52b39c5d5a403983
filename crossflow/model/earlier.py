"""Migration of configs in checkpoints of earlier versions."""

from collections.abc import Mapping
from typing import Any

from crossflow.errors import CrossFlowError

FIRST = "1"
"""In version 1 fields such as ``image`` and ``token_count`` implied what is read, and a weight of 0 left a term out."""


def migrated(config: Any, version: str) -> Any:
    """The config of a file of ``version`` in the current form; both are plain JSON.

    Unknown fields are kept, so that reading the config reports them. CrossFlowError if a field that the version
    requires is missing or of another type.
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
    return new | old  # path, times, stage_weights and sampling are unchanged


def _kind(config: Mapping[str, Any], default: str) -> dict[str, Any]:
    """The config with its kind, which version 1 left out for the ``default``."""
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
    """The terms with a weight other than 0."""
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
