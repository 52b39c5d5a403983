"""What the original packages say of a run's outputs: the other side of ``crossflow-eval verify``, a file a kind.

A peer is given the outputs and what they are judged against, and computes by another's code what a metric of ours has
computed. Of ours it takes what its answer then says: the readers of data sets, the crops that a protocol lists, the
moments of a reference, and the features of networks that no package has.
"""

from __future__ import annotations

from crossflow_eval.metrics.arithmetic import SceneArithmetic
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.metrics.clip_score import CaptionCLIPScore, CLIPScore
from crossflow_eval.metrics.clipsim import ClipSim
from crossflow_eval.metrics.compression import TokenCosine
from crossflow_eval.metrics.depth import DepthErrors
from crossflow_eval.metrics.distances import FeatureMetric
from crossflow_eval.metrics.fid import FID
from crossflow_eval.metrics.fvd import FVD
from crossflow_eval.metrics.geneval.score import GenEval
from crossflow_eval.metrics.of_torchmetrics import OfPairs, OfSets
from crossflow_eval.metrics.restoration import Restoration
from crossflow_eval.metrics.scenes import SceneCaptions, SceneCLIPScore, SceneGenEval, SceneInceptionScore
from crossflow_eval.metrics.sounds import ClapScore, FrechetAudioDistance, PannsScores
from crossflow_eval.peers import captions, depth, distances, restoration
from crossflow_eval.peers.peer import Peer

PEERS: dict[type, Peer] = {
    CaptionScores: captions.PEER,
    Restoration: restoration.PEER,
    DepthErrors: depth.PEER,
    FID: distances.FRECHET,
    FeatureMetric: distances.KERNEL,
    SceneInceptionScore: distances.LOOKS,
    SceneCLIPScore: distances.COSINE,
}
"""By the class of a metric; a subclass has its base's."""

_RULES = "GenEval's rules are a script of its authors, in no package; tests hold ours to 1,993 verdicts of it"
_CLIP = "the score's definition is a script of its authors, in no package"
_WORLD = "it is of the embedded world, and no package knows that"
_ITSELF = "torchmetrics itself computed it"
_SOUND = "audioldm_eval, which defines it, fetches its own weights; tests hold ours to what it made of the same ones"
_FILM = "StyleGAN-V, which defines it, is in no package; its network is the very program that is run here"
_CLAP = "transformers' ClapModel itself computed it"
WITHOUT: dict[type, str] = {
    SceneGenEval: _RULES,
    GenEval: _RULES,
    CLIPScore: _CLIP,
    CaptionCLIPScore: _CLIP,
    SceneCaptions: _WORLD,
    SceneArithmetic: _WORLD,
    TokenCosine: _WORLD,
    OfPairs: _ITSELF,
    OfSets: _ITSELF,
    PannsScores: _SOUND,
    FrechetAudioDistance: _SOUND,
    ClapScore: _CLAP,
    ClipSim: _CLIP,
    FVD: _FILM,
}
"""Why there is no peer, by the class of a metric."""


def peer_of(metric: object) -> Peer | str:
    """The peer of a metric, or why it has none."""
    for of in type(metric).__mro__:
        if of in PEERS:
            return PEERS[of]
        if of in WITHOUT:
            return WITHOUT[of]
    return "no package is known that defines it"
