"""Names of files as text: on Linux a name is any bytes, on macOS its accents are letters of their own."""

import os
import unicodedata
from pathlib import Path, PurePath


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), as it is typed; macOS gives files the decomposed one."""
    return unicodedata.normalize("NFC", name)


def is_text(text: str) -> bool:
    """Whether UTF-8 can encode ``text``; file names, and JSON, may hold half a character."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_name(text: str) -> bool:
    """Whether a text from somebody's file can be the name of a file in a folder, and leads nowhere else."""
    return text != ".." and "\0" not in text and bool(text) and PurePath(text).name == text


def shown(path: str | Path) -> str:
    r"""A name or path for a message, bytes that are not UTF-8 as ``\x8e``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
