"""Dicts that numpy saved come back as they were; a file that asks for more than arrays is refused and runs nothing."""

import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from crossflow.errors import CrossFlowError
from crossflow.files import arrays as npy
from crossflow.files.arrays import read_arrays

DATA = {
    "image_latent_256": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "half": np.float16([1.5, -2]),
    "token_mask_clip": np.array([1, 1, 0]),
    "bools": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float32(1.5),
    "text": np.array("wörd"),
}
PLAIN = {"batch_caption": "a bläck cat\n", "none": None, "number": 3}


def saved(path, value: object, protocol: int = 4):
    """What ``numpy.save`` writes, in any pickle protocol."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(value if isinstance(value, bytes) else pickle.dumps(np.array(value, dtype=object), protocol))
    return path


def refused(path) -> str:
    with pytest.raises(CrossFlowError) as caught:
        read_arrays(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray | np.generic):
            assert found[name].dtype == value.dtype.newbyteorder("=")
            assert found[name].shape == value.shape
            assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], value)


def test_what_numpy_saves_today(tmp_path):
    np.save(tmp_path / "a.npy", DATA | PLAIN, allow_pickle=True)  # pyright: ignore[reportArgumentType]
    same(read_arrays(tmp_path / "a.npy"), DATA | PLAIN)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path, protocol):
    same(read_arrays(saved(tmp_path / "a.npy", DATA | PLAIN, protocol)), DATA | PLAIN)


@pytest.mark.parametrize("protocol", [2, 3])
def test_numpy_1_and_2_name_their_functions_differently(tmp_path, protocol):
    new = pickle.dumps(np.array(DATA | PLAIN, dtype=object), protocol)
    assert b"cnumpy._core.multiarray\n_reconstruct\n" in new
    old = new.replace(b"numpy._core.", b"numpy.core.")
    assert len(old) < len(new)
    same(read_arrays(saved(tmp_path / "old.npy", old)), DATA | PLAIN)
    same(read_arrays(saved(tmp_path / "new.npy", new)), DATA | PLAIN)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    save(tmp_path / "a.npz", **DATA, caption="a cat")
    same(read_arrays(tmp_path / "a.npz"), DATA | {"caption": np.array("a cat")})


@given(
    value=arrays.arrays(
        st.one_of(arrays.integer_dtypes(), arrays.floating_dtypes(sizes=(16, 32, 64)), arrays.boolean_dtypes()),
        arrays.array_shapes(min_dims=0, min_side=0),
    ),
    protocol=st.integers(2, 5),
)
def test_any_array_of_numbers(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    found = read_arrays(saved(path, {"x": value}, protocol))["x"]
    assert found.dtype == value.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, value)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Plain:
    """A class of no harm, but no array."""


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "function, said",
    [
        (os.mkdir, "posix.mkdir"),
        (os.system, "posix.system"),
        (eval, ".eval"),
        (exec, ".exec"),
        (getattr, ".getattr"),
        (np.load, "numpy.load"),
        (np.fromfile, "fromfile"),
        (np.lib.format.open_memmap, "open_memmap"),
        (collections.OrderedDict, "collections.OrderedDict"),
        (pickle.loads, "pickle.loads"),
    ],
)
def test_every_other_function_is_refused_by_name_and_not_called(tmp_path, function, said, protocol):
    argument = {os.mkdir: str(tmp_path / "sprung"), os.system: f"touch {tmp_path / 'sprung'}"}.get(
        function, f"__import__('os').mkdir({str(tmp_path / 'sprung')!r})"
    )
    for value in (Calls(function, argument), {"x": Calls(function, argument)}, {"x": [Calls(function, argument)]}):
        message = refused(saved(tmp_path / "a.npy", value, protocol))
        assert said in message
        assert "could do harm" in message
    assert not (tmp_path / "sprung").exists()


def test_a_class_and_a_dotted_path_through_numpy(tmp_path):
    assert "Plain, which no array needs" in refused(saved(tmp_path / "a.npy", {"x": Plain()}))
    through = b"\x80\x04\x8c\x05numpy\x8c\x0bos.getcwd()\x93."
    assert "numpy.os.getcwd()" in refused(saved(tmp_path / "a.npy", through))


def test_arrays_of_objects_are_refused(tmp_path):
    inner = {"x": np.array(["a", None], dtype=object)}
    assert "x is an array of type O8" in refused(saved(tmp_path / "a.npy", inner))
    record = {"x": np.zeros(2, [("a", "f4"), ("b", "O")])}
    assert "x is an array of type V12" in refused(saved(tmp_path / "a.npy", record))
    np.savez(tmp_path / "a.npz", x=inner["x"])
    assert "only plain numbers and text" in refused(tmp_path / "a.npz")
    np.save(tmp_path / "list.npy", inner["x"])
    assert "holds an array of object [2], not a dict" in refused(tmp_path / "list.npy")
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    assert "holds an array of float64 [3], not a dict" in refused(tmp_path / "numbers.npy")
    assert "holds str, not a dict" in refused(saved(tmp_path / "a.npy", "text"))


def test_bytes_never_pass_for_pointers(tmp_path):
    """A type of objects whose flags deny it, with raw bytes as its data: numpy would take these for addresses."""
    data = pickle.dumps(np.array({"x": np.zeros(2)}, dtype=object), 4)
    forged = data.replace(b"\x8c\x02f8", b"\x8c\x02O8")
    assert forged != data
    assert "x is an array of type O8" in refused(saved(tmp_path / "a.npy", forged))


def test_sizes_must_agree(tmp_path):
    data = pickle.dumps(np.array({"x": np.zeros(7, np.float32)}, dtype=object), 4)
    for count in (6, 8, 255):
        forged = data.replace(b"K\x07\x85", b"K" + bytes([count]) + b"\x85")
        assert forged != data
        assert "not the bytes" in refused(saved(tmp_path / "a.npy", forged))
    content = io.BytesIO()
    np.savez(content, x=np.zeros(7))
    (tmp_path / "a.npz").write_bytes(content.getvalue().replace(b"(7,)", b"(8,)"))
    assert "damaged" in refused(tmp_path / "a.npz")  # by the archive's own checksum


def test_a_pickle_cannot_change_its_reader(tmp_path):
    """BUILD on what a global gave sets attributes of ordinary functions and classes; here it must leave no trace."""
    good = saved(tmp_path / "good.npy", DATA)
    for name in (b"numpy\nndarray", b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct", b"_codecs\nencode"):
        for attribute in (b"__init__", b"__setstate__", b"checked", b"__call__", b"__func__"):
            state = b"N}X" + struct.pack("<I", len(attribute)) + attribute + b"c_codecs\nencode\ns\x86"
            assert "damaged" in refused(saved(tmp_path / "a.npy", b"\x80\x02c" + name + b"\n" + state + b"b."))
            same(read_arrays(good), DATA)


def test_a_file_cut_anywhere(tmp_path):
    data = saved(tmp_path / "a.npy", {"x": np.zeros(3), "batch_caption": "a cat"}).read_bytes()
    for length in range(0, len(data), 3):
        (tmp_path / "cut.npy").write_bytes(data[:length])
        refused(tmp_path / "cut.npy")
    content = io.BytesIO()
    np.savez(content, x=np.zeros(3))
    for length in range(0, len(content.getvalue()), 7):
        (tmp_path / "cut.npz").write_bytes(content.getvalue()[:length])
        refused(tmp_path / "cut.npz")


def test_any_one_byte_changed_gives_arrays_or_a_sentence(tmp_path):
    data = bytearray(saved(tmp_path / "a.npy", {"x": np.zeros(3), "batch_caption": "a cat"}).read_bytes())
    start = data.index(b"\x80\x04")
    for place in range(start, len(data)):
        data[place] ^= 1
        (tmp_path / "b.npy").write_bytes(data)
        try:
            read_arrays(tmp_path / "b.npy")
        except CrossFlowError as error:
            assert "\n" not in str(error)
        data[place] ^= 1


def test_opcodes_that_reach_outside(tmp_path):
    for code in (b"Phello\n.", b"\x82\x01.", b"\x80\x04\x97."):  # a persistent id, an extension, an external buffer
        assert "damaged" in refused(saved(tmp_path / "a.npy", code))


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "LARGEST", 1000)
    assert "at most 1000 are read" in refused(saved(tmp_path / "a.npy", {"x": np.zeros(200)}))
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10_000))
    assert (tmp_path / "a.npz").stat().st_size < 1000
    assert "unpacked it has more than 1000 bytes" in refused(tmp_path / "a.npz")


def test_a_missing_file(tmp_path):
    assert "No such file" in refused(tmp_path / "none.npy")
    assert "Is a directory" in refused(tmp_path)


def test_the_crafted_pickles_are_pickles():
    pickletools.dis(b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00ac_codecs\nencode\ns\x86b.", io.StringIO())


def test_a_header_that_python_fails_to_parse_once_is_parsed_again(tmp_path, monkeypatch):
    """CPython 3.11 fails at random in the parser; a file is called damaged only where it fails again."""
    np.save(tmp_path / "a.npy", {"x": np.arange(3)})
    parse, failures = np.lib.format.read_array_header_1_0, [SystemError("AST constructor recursion depth mismatch")]

    def failing(file):
        found = parse(file)
        if failures:
            raise failures.pop()
        return found

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", failing)
    assert read_arrays(tmp_path / "a.npy")["x"].tolist() == [0, 1, 2]
    failures += [SystemError("once"), SystemError("and again")]
    with pytest.raises(CrossFlowError, match="is damaged"):
        read_arrays(tmp_path / "a.npy")
