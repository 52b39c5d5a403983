"""The suite of UCF-101: its list, the program that FVD runs, and the distance as StyleGAN-V has it."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.files.videos import read_film, write_video
from crossflow_eval.datasets.ucf101 import read_part
from crossflow_eval.judges.i3d import I3d, load_i3d, published_i3d
from crossflow_eval.metrics.fvd import FVD
from crossflow_eval.suites import load_suite
from crossflow_eval.types import Example

DIM = 4


class Program(nn.Module):
    """What StyleGAN-V calls: the film, and three switches."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if resize:
            x = nn.functional.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        if rescale:
            x = 2 * x / 255 - 1
        means = x.mean(dim=[2, 3, 4])
        return torch.cat([means, x[:, :1, -1].mean(dim=[2, 3])], dim=1) if return_features else means


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "small.pt"
    torch.jit.save(torch.jit.script(Program()), path)
    return path


@pytest.fixture(scope="module")
def i3d(program) -> I3d:
    return load_i3d(program, "", DIM)


def film(seed: int, frames: int = 16) -> np.ndarray:
    random = np.random.RandomState(seed)
    return (random.randint(0, 128, (frames, 6, 8, 3)) + random.randint(0, 128, 3)).astype(np.uint8)


def test_fvd_is_stylegan_vs(i3d):
    made, real = [film(n, 18) for n in range(12)], [film(100 + n) for n in range(12)]
    examples = [Example(id=str(n), source="", target=n % 11) for n in range(12)]  # one film is there twice
    metric = FVD(i3d, lambda each: real[int(each.target)], "as it is")
    metric.update(examples[:5], made[:5])
    metric.update(examples[5:], made[5:])
    value = metric.compute()["fvd/stylegan-v"]
    ours, theirs = i3d(made).astype(np.float64), i3d(real[:11]).astype(np.float64)
    covariances = [np.cov(each, rowvar=False, bias=True) for each in (ours, theirs)]
    roots = np.real(linalg.sqrtm(covariances[0] @ covariances[1]))
    expected = np.square(ours.mean(0) - theirs.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * roots)
    assert (value.mean, value.n) == (pytest.approx(expected, rel=1e-8), 12)


def test_the_program_sees_sixteen_frames_of_the_central_square(i3d):
    long = film(3, 20)
    square = torch.from_numpy(long[:16, :, 1:7]).permute(3, 0, 1, 2)[None].float()
    expected = Program()(square, rescale=True, resize=True, return_features=True)[0].numpy()
    assert i3d([long])[0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(CrossFlowError, match="I3D is asked for 16 frames and a film has 15; make longer ones"):
        i3d([film(0, 15)])


def test_no_program_is_run_whose_sha256_is_not_the_published_one(program, tmp_path, monkeypatch):
    with pytest.raises(
        CrossFlowError, match=r"small\.pt has sha256 .*, expected bec6519f66ea534e…; fetch the published"
    ):
        load_i3d(program)
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    with pytest.raises(CrossFlowError, match=r"FVD needs i3d_torchscript\.pt \(sha256 bec6519f\)"):
        published_i3d()
    (tmp_path / "none.pt").write_bytes(b"PK no program")
    with pytest.raises(CrossFlowError, match=r"none\.pt is no TorchScript program"):
        load_i3d(tmp_path / "none.pt", "")


@pytest.fixture
def root(tmp_path):
    """Three films of two classes, with a list."""
    (tmp_path / "ucfTrainTestlist").mkdir()
    names = ["HandstandPushups/v_HandstandPushups_g08_c01", "YoYo/v_YoYo_g09_c02", "YoYo/v_YoYo_g10_c01"]
    lines = "".join(f"{name}.avi {1 + (name[0] == 'Y')}\n" for name in names)
    (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").write_text(lines)
    for name in names:
        path = tmp_path / "UCF-101" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_the_examples_are_films_with_their_classes_in_words(root):
    found = {each.id: each for each in load_suite("ucf101").examples(root)}
    assert {each.source for each in found.values()} == {"handstand pushups", "yo yo"}
    assert found["v_YoYo_g09_c02"].target == root / "UCF-101" / "YoYo" / "v_YoYo_g09_c02.avi"


def test_a_part_of_a_film_is_drawn_by_its_name(tmp_path):
    whole = film(5, 40)
    for name in ("a", "b", "c", "d"):
        write_video(tmp_path / f"{name}.webp", whole)
    parts = {name: read_part(tmp_path / f"{name}.webp", 16) for name in ("a", "b", "c", "d")}
    firsts = {name: int(np.argmax([(frame == part[0]).all() for frame in whole])) for name, part in parts.items()}
    assert all(np.array_equal(parts[name], whole[first : first + 16]) for name, first in firsts.items())
    assert len(set(firsts.values())) > 1
    with pytest.raises(CrossFlowError, match="has 40 frames, 41 are needed"):
        read_part(tmp_path / "a.webp", 41)


def test_bad_roots_are_refused(root):
    suite = load_suite("ucf101")
    with pytest.raises(CrossFlowError, match="The suite ucf101 needs its data root: --data FOLDER"):
        suite.examples(None)
    (root / "UCF-101" / "YoYo" / "v_YoYo_g10_c01.avi").unlink()
    with pytest.raises(CrossFlowError, match=r"1 of 3 films are missing in .*UCF-101: v_YoYo_g10_c01\.avi; unpack"):
        suite.examples(root)
    (root / "ucfTrainTestlist" / "trainlist01.txt").write_text("../../etc/passwd 1\n")
    with pytest.raises(CrossFlowError, match=r"is no list of UCF-101: it has \.\./\.\./etc/passwd"):
        suite.examples(root)


def test_an_avi_film_is_read(tmp_path):
    whole = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None, None], 32, axis=1)
    whole = np.broadcast_to(whole, (16, 32, 32, 3))
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        track = file.add_stream("mpeg4", rate=25)
        track.height, track.width, track.pix_fmt = 32, 32, "yuv420p"
        for frame in whole:
            file.mux(track.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(track.encode())
    found = read_film(tmp_path / "a.avi")
    assert found.shape == (16, 32, 32, 3)
    assert np.abs(found.mean(axis=(1, 2, 3)) - whole.mean(axis=(1, 2, 3))).max() < 6
    (tmp_path / "a.avi").write_bytes(b"RIFF")
    with pytest.raises(CrossFlowError, match="it is no whole AVI file"):
        read_film(tmp_path / "a.avi")
