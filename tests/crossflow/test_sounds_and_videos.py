"""Sounds and films go into files and come back, or are refused by one sentence that says why and what to do."""

import io
import wave

import av
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from crossflow.errors import CrossFlowError
from crossflow.files import videos
from crossflow.files.sounds import encode_wav, read_wav, write_wav
from crossflow.files.videos import decode_webp, encode_gif, encode_mp4, encode_webp, read_video, write_video
from crossflow.scenes.render import render
from crossflow.scenes.splits import example

RATE = 16_000
WAVE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
NOISE = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
FILM = np.stack([render(example("test", index).scene) for index in range(8)])


def refused(function, *arguments, **options) -> str:
    with pytest.raises(CrossFlowError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_a_wave_comes_back_within_half_a_step_of_16_bits(tmp_path):
    write_wav(tmp_path / "a.wav", WAVE, rate=RATE)
    found = read_wav(tmp_path / "a.wav", rate=RATE, samples=RATE)
    assert found.dtype == np.float32
    assert np.abs(found - WAVE).max() <= 0.5 / 32768 + 1e-7


def test_a_wave_louder_than_full_scale_is_cut_off_there(tmp_path):
    write_wav(tmp_path / "a.wav", 4 * WAVE, rate=RATE)
    found = read_wav(tmp_path / "a.wav", rate=RATE, samples=RATE)
    assert np.abs(found - np.clip(4 * WAVE, -1, 1)).max() <= 1 / 32768


def test_channels_become_one_by_their_mean_and_floats_are_kept(tmp_path):
    other = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", RATE, np.stack([WAVE, other], axis=1))
    found = read_wav(tmp_path / "a.wav", rate=RATE, samples=RATE)
    np.testing.assert_array_equal(found, ((WAVE.astype(np.float64) + other) / 2).astype(np.float32))


@pytest.mark.parametrize(
    ("bits", "stored"),
    [
        (8, np.rint(127 * WAVE + 128).astype(np.uint8)),
        (16, np.rint(32767 * WAVE).astype(np.int16)),
        (32, np.rint((2**31 - 1) * WAVE.astype(np.float64)).astype(np.int32)),
        (64, WAVE.astype(np.float64)),
    ],
)
def test_a_wave_is_the_same_sound_in_every_form(tmp_path, bits, stored):
    wavfile.write(tmp_path / "a.wav", RATE, stored)
    found = read_wav(tmp_path / "a.wav", rate=RATE, samples=RATE)
    assert np.abs(found - WAVE).max() <= 2.0 ** (2 - min(bits, 24))


def test_a_wave_of_24_bits_is_read(tmp_path):
    whole = np.rint((2**23 - 1) * WAVE.astype(np.float64)).astype("<i4")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 3, RATE, RATE, "NONE", "not compressed"))
        file.writeframes(whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    assert np.abs(read_wav(tmp_path / "a.wav", rate=RATE, samples=RATE) - WAVE).max() <= 2.0**-22


@pytest.mark.parametrize(
    ("rate", "sound", "why"),
    [
        (44_100, WAVE, "it has 44,100 samples a second, and 16,000 are expected"),
        (RATE, WAVE[:8000], "it is 0.5 s long, and 1 s are expected"),
        (RATE, WAVE[:0], "it holds no samples"),
        (RATE, 1e-5 * WAVE, "it is silent"),
        (RATE, WAVE * np.float32(np.nan), "it holds numbers that are not finite"),
        (RATE, 32768 * WAVE, "its samples go up to 1.64e+04"),
    ],
)
def test_a_wave_of_another_form_is_refused_with_the_command_that_mends_it(tmp_path, rate, sound, why):
    wavfile.write(tmp_path / "a.wav", rate, sound)
    message = refused(read_wav, tmp_path / "a.wav", rate=RATE, samples=RATE)
    assert why in message and "`ffmpeg -i IN -af apad -t 1 -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav`" in message


def test_a_damaged_wave_is_refused(tmp_path):
    whole, path = encode_wav(WAVE, rate=RATE), tmp_path / "a.wav"
    for content, why in [
        (b"", "zero bytes"),
        (b"RIFF", "no whole WAV file"),
        (NOISE.tobytes(), "no whole WAV file"),
        (whole[:36], "no whole WAV file"),
        (whole[:20_000], "truncated"),
        (bytes(17 << 20), "more than 16 MiB"),
    ]:
        path.write_bytes(content)
        assert why in refused(read_wav, path, rate=RATE, samples=RATE)
    streamed = whole[:40] + (2**32 - 1).to_bytes(4, "little") + whole[44:]
    path.write_bytes(streamed)
    assert len(read_wav(path, rate=RATE, samples=RATE)) == RATE, "a size that was not known when it was written"
    assert "cannot be read (No such file" in refused(read_wav, tmp_path / "no.wav", rate=RATE, samples=RATE)


@pytest.mark.parametrize(
    "film",
    [NOISE, FILM, FILM[[0, 0, 1, 1, 1, 2, 2, 3]], FILM[[0] * 8], NOISE * 0, NOISE[:, :9, :7]],
    ids=["noise", "scenes", "some frames twice", "one frame", "black", "odd sizes"],
)
def test_webp_gives_back_every_frame_to_the_bit(film):
    content = encode_webp(film)
    np.testing.assert_array_equal(decode_webp(content), film)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 8, "other programs count as many frames, also of those that are equal"


@pytest.mark.parametrize("film", [FILM, FILM[[0, 0, 1, 1, 1, 2, 2, 3]], FILM[[0] * 8]])
@pytest.mark.parametrize(("suffix", "most"), [("webp", 0), ("gif", 10), ("mp4", 10)])
def test_a_film_is_read_as_it_was_written_up_to_the_colours_of_the_format(tmp_path, film, suffix, most):
    path = tmp_path / f"a.{suffix}"
    write_video(path, film)
    found = read_video(path, frames=8, size=32)
    error = np.abs(found.astype(int) - film)
    assert error.max() <= most and error.mean() <= 1.5


def test_a_film_of_another_form_is_refused(tmp_path):
    for suffix in ("webp", "gif", "mp4"):
        path = tmp_path / f"a.{suffix}"
        write_video(path, FILM[:5])
        assert "it has 5 frames; give 8 frames" in refused(read_video, path, frames=8, size=32)
        write_video(path, FILM[:, :20])
        assert read_video(path, frames=8, size=32).shape == (8, 32, 32, 3)
        write_video(path, FILM[:1])
        assert "it is a still: it has 1 frame;" in refused(read_video, path, frames=8, size=32)
    assert "Unknown kind of film '.mov'" in refused(read_video, tmp_path / "a.mov", frames=8, size=32)
    assert "Unknown kind of film '.avi'" in refused(write_video, tmp_path / "a.avi", FILM)
    assert "cannot be read (No such file" in refused(read_video, tmp_path / "no.gif", frames=8, size=32)


@pytest.mark.parametrize(("suffix", "encode"), [("webp", encode_webp), ("gif", encode_gif), ("mp4", encode_mp4)])
def test_a_damaged_film_is_refused(tmp_path, suffix, encode):
    whole, path = encode(FILM), tmp_path / f"a.{suffix}"
    for content in (b"", whole[:10], whole[: len(whole) // 2], NOISE.tobytes(), encode_wav(WAVE, rate=RATE)):
        path.write_bytes(content)
        assert "is not used: it" in refused(read_video, path, frames=8, size=32)


def test_a_film_that_claims_more_than_there_is_room_for_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    write_video(tmp_path / "a.gif", FILM[[0] * 8])
    monkeypatch.setattr(videos, "MOST_FRAMES", 7)
    assert "more than 7 frames" in refused(read_video, tmp_path / "a.gif", frames=8, size=32)
    large = encode_webp(NOISE)[:24] + b"\xff\x3f\x00" * 2 + encode_webp(NOISE)[30:]
    (tmp_path / "a.webp").write_bytes(large)
    assert "is not used: it" in refused(read_video, tmp_path / "a.webp", frames=8, size=32)


def test_a_transparent_film_is_refused(tmp_path):
    frames = [Image.fromarray(frame) for frame in FILM]
    for frame in frames:
        frame.putalpha(100)
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert "is not used: it has transparent pixels;" in refused(read_video, tmp_path / "a.webp", frames=8, size=32)


def test_an_mp4_of_sound_alone_has_no_pictures(tmp_path):
    with av.open(tmp_path / "a.mp4", "w") as file:
        track = file.add_stream("aac", rate=RATE)
        frame = av.AudioFrame.from_ndarray(WAVE[None], format="fltp", layout="mono")
        frame.rate = RATE
        file.mux(track.encode(frame))
        file.mux(track.encode())
    assert "it has no pictures" in refused(read_video, tmp_path / "a.mp4", frames=8, size=32)
