"""Arrays, and dicts of arrays, saved by numpy, read safely from untrusted files.

``numpy.save`` of a dict writes a pickle, and a pickle can make its reader call any function. This reader resolves only
the few names that arrays need, each to a stand-in that stores its arguments. Arrays of plain numbers and text are built
afterwards, once dtype and size have been checked. numpy's own unpickling code never runs on the file.
"""

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.stand_ins import refuse_stand_in

LARGEST = 64 << 20
"""Largest file that is read, in bytes after decompression; one item of the authors' layout has under two million."""
MOST = 1 << 30
"""The largest array of plain numbers that is read, in bytes."""
PLAIN = re.compile(r"[biuf][0-9]{1,2}|U[0-9]{1,6}")
"""The dtypes that are read: bool, integers, floats and text."""


def read_arrays(path: Path) -> dict[str, Any]:
    """The dict in a file of ``numpy.save`` (.npy) or ``numpy.savez`` (.npz); values that are not arrays are kept as is.

    CrossFlowError, before any code in the file could run, if it is missing, truncated, larger than LARGEST, or holds
    arrays of anything but numbers and text.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise CrossFlowError(f"it has {size} bytes, and at most {LARGEST} are read")
        with path.open("rb") as file:
            return _unzipped(file) if path.suffix == ".npz" else _unpickled(file)
    except OSError as error:
        raise CrossFlowError(f"{path} cannot be read ({error.strerror}): make it again, or take it away.") from error
    except CrossFlowError as error:
        raise CrossFlowError(f"{path} is not used: {error}.") from error
    except Exception as error:  # pickle and zipfile document no list of what damaged bytes raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise CrossFlowError(f"{path} is damaged or no dict of arrays ({why}): make it again.") from error


def plain_arrays(path: Path, what: str, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, of ``names`` alone where given; that of an .npy file has the name "".

    The first bytes decide between the two. ``what`` the file should be is for the message. CrossFlowError if it is
    missing, damaged, or holds anything but plain numbers and text; memory is not taken before its data are there.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return _members(file, names) if zipped else {"": _plain(file)}
    except OSError as error:
        raise CrossFlowError(f"Cannot read the {what} {path}: {error.strerror or 'it is damaged'}.") from error
    except CrossFlowError as error:
        raise CrossFlowError(f"Cannot read the {what} {path}: {error}.") from error
    except Exception as error:  # zipfile, zlib and numpy's header parser document no list of what damaged bytes raise
        refuse_stand_in(path)
        why = " ".join(str(error).split()) or type(error).__name__
        raise CrossFlowError(
            f"Cannot read the {what} {path}: it is no whole .npy or .npz file of plain numbers ({why})."
        ) from error


def plain_array(content: bytes) -> np.ndarray:
    """The array of plain numbers or text in the bytes of an .npy file; ValueError for anything else."""
    try:
        return _plain(io.BytesIO(content))
    except Exception as error:  # numpy's header parser documents no list of what damaged bytes raise
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _members(file: BinaryIO, names: Collection[str] | None) -> dict[str, np.ndarray]:
    found = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if names is None or name in names:
                with archive.open(member) as opened:
                    found[name] = _plain(opened)
    return found


def _plain(file: Any) -> np.ndarray:
    """An array whose dtype and size are checked before its data are read, in parts, up to MOST bytes."""
    shape, fortran, dtype = _header(file)
    if not PLAIN.fullmatch(dtype.str[1:]):
        raise CrossFlowError(f"it holds an array of {dtype}, and only plain numbers and text are read")
    due = math.prod(shape) * dtype.itemsize
    if due > MOST or min(shape, default=0) < 0:
        raise CrossFlowError(f"it claims {dtype} {list(shape)}, {due:,} bytes, and at most {MOST:,} are read")
    data = bytearray()
    while part := file.read(min(1 << 20, due - len(data))):
        data += part
    return _array(data, dtype, shape, fortran)


def _unzipped(content: io.BufferedIOBase) -> dict[str, Any]:
    found = {}
    with zipfile.ZipFile(content) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST:
            raise CrossFlowError(f"unpacked it has more than {LARGEST} bytes")
        for member in archive.infolist():
            file = io.BytesIO(archive.read(member))
            shape, fortran, dtype = _header(file)
            found[member.filename.removesuffix(".npy")] = _array(file.read(), dtype, shape, fortran)
    return found


def _unpickled(content: io.BufferedIOBase) -> dict[str, Any]:
    shape, _, dtype = _header(content)
    if shape != () or dtype != np.dtype(object):
        raise CrossFlowError(f"it holds an array of {dtype} {list(shape)}, not a dict of arrays")
    outer = _Unpickler(content).load()
    found = outer.state[4][0] if isinstance(outer, _Array) else None
    if not isinstance(found, dict):
        raise CrossFlowError(f"it holds {type(found).__name__}, not a dict of arrays")
    return {key: value.checked(key) if isinstance(value, _Array) else value for key, value in found.items()}


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of the array that follows; the file is left at the start of its data.

    numpy has Python parse a header, and CPython 3.11 now and then fails at that with a SystemError, whatever the text
    is: it is parsed again.
    """
    version, start = np.lib.format.read_magic(file), file.tell()
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        return readers[version](file)
    except SystemError:
        file.seek(start)
        return readers[version](file)


def _array(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    """An array in native byte order that owns its memory."""
    if not PLAIN.fullmatch(dtype.str[1:]):
        raise CrossFlowError(f"it holds an array of {dtype}, and only plain numbers and text are read")
    if not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape) * dtype.itemsize:
        raise CrossFlowError(f"its data are not the bytes that an array of {dtype} {list(shape)} has")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return values.astype(dtype.newbyteorder("="), order="C")


class _Dtype:
    """Stands in for ``numpy.dtype``: its type code, and the byte order from its pickled state."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands in for ``numpy.ndarray``: its pickled state (version, shape, dtype, Fortran order, data), unchecked."""

    state: tuple[Any, ...]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def checked(self, name: str) -> np.ndarray:
        """The array, once its dtype and size are checked; ``name`` is for the message."""
        _, shape, dtype, fortran, data = self.state
        if not PLAIN.fullmatch(dtype.code):
            raise CrossFlowError(f"{name} is an array of type {dtype.code}, and only plain numbers and text are read")
        return _array(data, np.dtype(dtype.order + dtype.code), shape, fortran)


def _stand_in(shape: object, dtype: object, fortran: bool, data: object) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, fortran, data)
    return array


class _Unpickler(pickle.Unpickler):
    """Resolves the globals in pickles of arrays and scalars, of numpy 1 and 2 and pickle protocols 2 to 5.

    Each resolves to a stand-in of this module: a class with ``__setstate__`` or a bound method. A pickle cannot alter
    these, so no file affects how the next one is read.
    """

    def find_class(self, module_name: str, global_name: str) -> Callable[..., Any]:
        """The stand-in for a global; CrossFlowError for one that arrays do not need."""
        name = f"{module_name}.{global_name}".replace("numpy._core.", "numpy.core.")
        known: Mapping[str, Callable[..., Any]] = {
            "numpy.dtype": _Dtype,
            "numpy.ndarray": _Array,
            "numpy.core.multiarray._reconstruct": self._reconstruct,
            "numpy.core.multiarray.scalar": self._scalar,
            "numpy.core.numeric._frombuffer": self._frombuffer,
            "_codecs.encode": self._encode,
            "__builtin__.bytes": self._no_bytes,
        }
        if name not in known:
            raise CrossFlowError(f"it names {module_name}.{global_name}, which no array needs, and could do harm")
        return known[name]

    def _reconstruct(self, kind: object, shape: object, code: object) -> _Array:
        return _Array()

    def _scalar(self, dtype: object, data: object) -> _Array:
        return _stand_in((), dtype, False, data)

    def _frombuffer(self, data: object, dtype: object, shape: object, order: object) -> _Array:
        return _stand_in(shape, dtype, order == "F", data)

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes, as protocol 2 writes them."""
        return text.encode("latin-1")

    def _no_bytes(self) -> bytes:
        """Empty bytes, as protocol 2 writes them."""
        return b""
