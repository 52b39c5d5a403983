"""Train CrossFlow models, sample from them, inspect their checkpoints. Results on stdout, all else on stderr."""

# Nothing heavy is imported here, so that ``--help`` is fast: each command imports what it needs.
from __future__ import annotations

from crossflow.cli import cache, checkpoints, from_image, generate, latent_space, sample, train
from crossflow.files.program import Commands, new_app

COMMANDS: Commands = {
    "Train": [
        (train.train, "crossflow train scenes-t2i --out runs/scenes-t2i"),
        (train.train_reader, "crossflow train-reader runs/t2i/model.safetensors --out reader.safetensors"),
        (cache.cache, "crossflow cache t2i-256px-clip-dimr --images PHOTOS --captions captions.jsonl --out shards"),
    ],
    "Sample": [
        (sample.sample, 'crossflow sample --prompt "a photo of a red ball" --out images'),
        (from_image.from_image, "crossflow from-image scene.png --task caption --out answers"),
        (generate.generate, 'crossflow generate --from text="a red ball" --to image,audio --out made'),
        (latent_space.interpolate, 'crossflow interpolate "a red ball" "a blue box" --out walk --frames 40'),
        (latent_space.arithmetic, 'crossflow arithmetic --base "a red ball" --add "a blue box" --out sum'),
    ],
    "Checkpoints": [
        (checkpoints.convert, "crossflow convert t2i_256px_clip_dimr.pth t2i.safetensors"),
        (
            checkpoints.export,
            "crossflow export model.safetensors best.safetensors --solver heun --steps 50 --guidance-scale 2",
        ),
        (checkpoints.info, "crossflow info runs/t2i/model.safetensors"),
    ],
}
app = new_app("crossflow", __doc__, COMMANDS)
