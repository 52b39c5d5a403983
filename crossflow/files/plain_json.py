"""JSON and TOML of users, read strictly: whatever is wrong with them ends in one sentence.

Beyond what the format forbids, refused are NaN and infinities, numbers that no float holds, integers of more than
DIGITS digits, half characters (lone surrogates), and nesting deeper than Python can follow.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow.files.names import is_text

OR_LINES = "write it again, or call it .jsonl if it has one object a line"
"""The remedy for a .json of users that may be either."""
DIGITS = 40
"""The digits of the longest integer that is read."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(content: str | bytes, where: str, remedy: str = "write it again") -> Any:
    """The value of a JSON text; ``where`` (a file, and its line) begins the message of a CrossFlowError."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise CrossFlowError(f"{where}: it is not UTF-8 text; {remedy}.") from error
    except RecursionError as error:
        raise CrossFlowError(f"{where}: it is nested too deeply; {remedy}.") from error
    except json.JSONDecodeError as error:
        raise CrossFlowError(f"{where}: it is not JSON ({error}); {remedy}.") from error
    except ValueError as error:
        raise CrossFlowError(f"{where}: {error}; {remedy}.") from error
    if _SURROGATE.search(text) and not _is_text(value):
        raise CrossFlowError(f"{where}: it holds half a character (a lone surrogate); {remedy}.")
    return value


def read_json_file(path: Path, remedy: str = "write it again") -> Any:
    """The value of a JSON file. CrossFlowError for one that cannot be read, with the ``remedy``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CrossFlowError(f"Cannot read {path}: {error.strerror}; {remedy}.") from error
    return read_json(content, str(path), remedy)


def read_json_lines(text: str, where: str) -> Iterator[tuple[str, Any]]:
    """Each value of a text of one JSON value a line, after its place (``line 3``); blank lines are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield (place := f"line {number}"), read_json(line, f"{where}, {place}")


def read_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text; ``where`` begins the message of a CrossFlowError."""
    try:
        return tomllib.loads(text, parse_float=_float)
    except RecursionError as error:
        raise CrossFlowError(f"{where}: it is nested too deeply; write it again.") from error
    except tomllib.TOMLDecodeError as error:
        raise CrossFlowError(f"{where}: it is not TOML ({error}); write it again.") from error
    except ValueError as error:  # of a number
        raise CrossFlowError(f"{where}: it holds a number that is too large, or none; write it again.") from error


def _constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"it holds an integer of {len(digits)} digits, and at most {DIGITS} are read")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {digits[:DIGITS]}, which is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_integer, parse_float=_float)


def _is_text(value: Any) -> bool:
    """Whether UTF-8 can encode all text in a value."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            if not is_text(each):
                return False
        elif isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each
    return True
