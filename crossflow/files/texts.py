"""Text files of users: one reader for captions, prompts, predictions and lists of ids."""

import codecs
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.names import shown


def read_text(path: Path, what: str) -> str:
    """The text in a file, without a byte order mark; ``what`` begins the message of a CrossFlowError.

    That is raised where the file cannot be read and where it is not UTF-8, which the message says how to mend.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CrossFlowError(f"{what} {shown(path)} cannot be read ({error.strerror}): give a text file.") from error
    return text_of(content, f"{what} {shown(path)}")


def text_of(content: bytes, what: str) -> str:
    """The text in the bytes of a file, without a byte order mark; CrossFlowError, which names ``what``, for another."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        why = "it is UTF-16" if utf16 else f"it is not UTF-8 text: {error.reason}"
        raise CrossFlowError(f"{what} cannot be read ({why}): save it as UTF-8.") from error


def lines(text: str) -> tuple[str, ...]:
    """The lines of a text without blank ones; a separator of Unicode's within a line divides nothing."""
    return tuple(line.strip() for line in text.split("\n") if line.strip())
