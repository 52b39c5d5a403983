"""Evaluator weights of the published protocols, by file name and sha256. None is shipped and none is downloaded.

Sources: the file names and addresses are those of the tools that define each protocol; a sha256 prefix in a file name
is the publisher's own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluatorWeights:
    """One file that a published metric is defined by. ``sha256`` holds as many digits as are known for certain."""

    metric: str
    file: str
    sha256: str
    source: str

    @property
    def need(self) -> str:
        """What is needed and where it comes from, in a few words."""
        return f"{self.file} (sha256 {self.sha256[:8]}) from {self.source}"


TEXT_TO_IMAGE = (
    EvaluatorWeights(
        metric="FID",
        file="pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        source="github.com/mseitzer/pytorch-fid, release fid_weights",
    ),
    EvaluatorWeights(
        metric="FID (clean-fid)",
        file="inception-2015-12-05.pt",
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        source="nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics",
    ),
    EvaluatorWeights(
        metric="CLIP score",
        file="ViT-B-32.pt",
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        source="openaipublic.azureedge.net/clip/models",
    ),
    EvaluatorWeights(
        metric="CLIP score and GenEval's colours",
        file="ViT-L-14.pt",
        sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        source="openaipublic.azureedge.net/clip/models",
    ),
    EvaluatorWeights(
        metric="GenEval's detector",
        file="mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",
        sha256="743b7d99",
        source="download.openmmlab.com/mmdetection/v2.0/mask2former",
    ),
)
"""What the standard text-to-image metrics need."""
