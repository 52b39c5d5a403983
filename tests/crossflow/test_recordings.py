"""WAV files of any form: what is stored is what is heard, and what is kept is kept to the bit."""

import io

import numpy as np
import pytest
from scipy.io import wavfile

from crossflow.errors import CrossFlowError
from crossflow.files.recordings import Recording, decode_recording, encode_recording, read_recording


def stored(samples, rate=8_000):
    stream = io.BytesIO()
    wavfile.write(stream, rate, samples)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("samples", "heard"),
    [
        (np.array([0, 128, 255], dtype=np.uint8), [-1, 0, 127 / 128]),
        (np.array([-(1 << 15), 0, 1], dtype=np.int16), [-1, 0, 2**-15]),
        (np.array([-(1 << 31), 0, 1 << 30], dtype=np.int32), [-1, 0, 0.5]),
        (np.array([-1.5, 0, 0.25], dtype=np.float32), [-1.5, 0, 0.25]),
        (np.array([-1.5, 0, 0.25], dtype=np.float64), [-1.5, 0, 0.25]),
    ],
)
def test_full_scale_is_one_in_every_form(samples, heard):
    found = decode_recording(stored(samples))
    assert found.samples.dtype == np.float32
    assert found.samples[:, 0].tolist() == heard


def test_channels_stay_apart_and_the_rate_is_kept():
    found = decode_recording(stored(np.array([[1, 2], [3, 4], [5, 6]], dtype=np.int16), rate=44_100))
    assert (found.rate, (found.samples * 2**15).tolist()) == (44_100, [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(("unit", "size"), [(2**-15, 2), (2**-20, 4), (1.0, 4)])
def test_what_is_encoded_comes_back_to_the_bit_in_as_few_bytes_as_hold_it(unit, size):
    samples = (np.array([[-3, 2], [1, 2], [3, 4], [5, 6]]) * unit).astype(np.float32)
    content = encode_recording(Recording(samples, 22_050))
    found = decode_recording(content)
    assert found.rate == 22_050
    assert np.array_equal(found.samples, samples)
    assert wavfile.read(io.BytesIO(content))[1].itemsize == size


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it has zero bytes"),
        (b"RIFF", "it is no whole WAV file"),
        (stored(np.zeros(100, dtype=np.int16))[:100], "it is truncated"),
        (stored(np.zeros(0, dtype=np.int16)), "it holds no samples"),
        (stored(np.array([0, np.nan], dtype=np.float32)), "it holds numbers that are not finite"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path, content, told):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(CrossFlowError, match=rf"The recording .*a\.wav cannot be read: {told}.*; make it again by `ff"):
        read_recording(tmp_path / "a.wav")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CrossFlowError, match=r"The recording .*b\.wav cannot be read \(No such file or directory\)"):
        read_recording(tmp_path / "b.wav")
