"""Evaluator weights of the published protocols: file name, address, sha256, licence. None is shipped.

Sources: names and addresses are those of the tools that define each protocol; a sha256 prefix in a file name is the
publisher's own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluatorWeights:
    """One file that a published metric is defined by. ``sha256`` holds as many digits as are known for certain.

    ``url`` is empty where the file is inside an archive that must be unpacked by hand; ``size`` is in bytes.
    """

    metric: str
    file: str
    sha256: str
    source: str
    url: str = ""
    size: int | None = None
    licence: str = ""

    @property
    def need(self) -> str:
        """What is needed and where it comes from, in a few words."""
        return f"{self.file} (sha256 {self.sha256[:8]}) from {self.source}"


def _openai(metric: str, file: str, sha256: str) -> EvaluatorWeights:
    where = "openaipublic.azureedge.net/clip/models"
    url = f"https://{where}/{sha256}/{file}"
    return EvaluatorWeights(metric=metric, file=file, sha256=sha256, source=where, url=url, licence="MIT")


_MASK2FORMER = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
_OPENMMLAB = "download.openmmlab.com/mmdetection/v2.0/mask2former"
_STYLEGAN = "nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics"
_DINOV2 = "dl.fbaipublicfiles.com/dinov2/dinov2_vitl14"

TEXT_TO_IMAGE = (
    EvaluatorWeights(
        metric="FID",
        file="pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        source="github.com/mseitzer/pytorch-fid, release fid_weights",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        size=95_628_359,
        licence="Apache-2.0",
    ),
    EvaluatorWeights(
        metric="FID (clean-fid)",
        file="inception-2015-12-05.pt",
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        source=_STYLEGAN,
        url=f"https://{_STYLEGAN}/inception-2015-12-05.pt",
        size=95_607_719,
        licence="Apache-2.0",
    ),
    _openai("CLIP score", "ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    _openai(
        "CLIP score and GenEval's colours",
        "ViT-L-14.pt",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    ),
    EvaluatorWeights(
        metric="GenEval's detector",
        file=f"{_MASK2FORMER}_20220504_001756-743b7d99.pth",
        sha256="743b7d99",
        source=_OPENMMLAB,
        url=f"https://{_OPENMMLAB}/{_MASK2FORMER}/{_MASK2FORMER}_20220504_001756-743b7d99.pth",
        licence="Apache-2.0",
    ),
)
"""What the standard text-to-image metrics need."""

OTHERS = (
    _openai("CMMD", "ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    EvaluatorWeights(
        metric="FD-DINOv2",
        file="dinov2_vitl14_pretrain.pth",
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        source=_DINOV2,
        url=f"https://{_DINOV2}/dinov2_vitl14_pretrain.pth",
        licence="Apache-2.0",
    ),
)
"""What the other distances between sets of images need."""

_ZENODO = "zenodo.org/records/3987831"
_TORCHVGGISH = "github.com/harritaylor/torchvggish"
PANNS = EvaluatorWeights(
    metric="FD, IS and KL of sounds",
    file="Cnn14_16k_mAP=0.438.pth",
    sha256="e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
    source=_ZENODO,
    url=f"https://{_ZENODO}/files/Cnn14_16k_mAP%3D0.438.pth?download=1",
    size=358_668_570,
    licence="CC BY 4.0",
)
VGGISH = EvaluatorWeights(
    metric="FAD",
    file="vggish-10086976.pth",
    sha256="10086976",
    source=f"{_TORCHVGGISH}, release v0.1",
    url=f"https://{_TORCHVGGISH}/releases/download/v0.1/vggish-10086976.pth",
    licence="Apache-2.0",
)
I3D = EvaluatorWeights(
    metric="FVD",
    file="i3d_torchscript.pt",
    sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    source="github.com/universome/stylegan-v, which names www.dropbox.com/s/ge9e5ujwgetktms",
    url="https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    size=51_235_320,
    licence="Apache-2.0 of I3D; the program states none",
)
SOUND_AND_FILM = (PANNS, VGGISH, I3D)
"""What the metrics of sounds and films need; CLAP is a folder of the hub's cache, see ``judges.clap``."""

PUBLISHED = TEXT_TO_IMAGE + OTHERS + SOUND_AND_FILM
