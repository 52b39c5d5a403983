"""The caption cleaning of DeepFloyd IF, which the authors apply to captions before T5.

Web captions contain URLs, mark-up, article numbers and shop phrases. Each rule below removes or normalises one of
these. The rules run in order, and the whole list twice, because one removal can uncover another match. Two quirks are
kept because the embeddings depend on them: whitespace at the ends is stripped only after the last rule, so that the
rules for the first and last character can miss in one pass; and only the scheme of a URL is removed if its top-level
domain is unknown.
"""

import html
import re
import warnings
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_plus


class Rule(NamedTuple):
    """Replaces every match of ``pattern`` by ``by``."""

    pattern: str
    by: str = ""


_FILE_KINDS = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DOMAIN = r"[a-z0-9.-]+\.(?:com?|edu|gov|it|net|org|ru)[\w/-]*\b/?(?!@)"
_DASHES = (
    r"\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    r"\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)

BEFORE_MARKUP = (
    Rule("<person>", "person"),
    Rule(rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})"),
    Rule(rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})"),
)
"""Masked people, then URLs: a scheme, or a host with a known top-level domain and its path."""

BEFORE_REPAIR = (
    Rule(r"@\w+"),  # nicknames
    Rule(r"[\u31c0-\u9fff]"),  # CJK: strokes, enclosed and compatibility forms, ideographs; Yijing hexagrams
    Rule(rf"[{_DASHES}]+", "-"),
    Rule(r"[`\u00b4«»“”¨]", '"'),
    Rule(r"[\u2018\u2019]", "'"),
    Rule("&quot;?"),
    Rule("&amp"),
    Rule(r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # IP addresses
    Rule(r"\d:\d\d\s+$"),  # article numbers
    Rule(r"\\n", " "),  # a literal backslash-n
    Rule(r"#(?:\d{1,3}|\d{5,})\b"),  # "#123", "#12345"; four digits may be a year
    Rule(r"\b\d{6,}\b"),
    Rule(rf"\S+\.(?:{_FILE_KINDS})"),  # file names
    Rule("[\"']{2,}", '"'),
    Rule(r"\.{2,}", " "),
    Rule(r"[][#®•©™&@·º½¾¿¡§~(){}|\\/*]+", " "),  # bullets, brackets and signs
    Rule(r"\s+\.\s+", " "),
)

AFTER_REPAIR = (
    Rule(r"\b[a-zA-Z]{1,3}\d{3,15}\b"),  # codes: jc6640
    Rule(r"\b[a-zA-Z]+\d+[a-zA-Z]+\b"),  # jc6640vc
    Rule(r"\b\d+[a-zA-Z]+\d+\b"),  # 6640vc231
    Rule(r"(?:worldwide\s+)?(?:free\s+)?shipping"),
    Rule(r"(?:free\s)?download(?:\sfree)?"),
    Rule(r"\bclick\b\s(?:for|on)\s\w+"),
    Rule(rf"\b(?:{_FILE_KINDS})(?:\simages?)?"),
    Rule(r"\bpage\s+\d+\b"),
    Rule(r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    Rule(r"\b\d+\.?\d*[xх×]\d+\.?\d*\b"),  # noqa: RUF001 (sizes, 20x30, with a Latin or Cyrillic letter or the sign)
    Rule(r"\b\s+:\s+", ": "),
    Rule(r"(\D[,./])\b", r"\1 "),
    Rule(r"\s+", " "),
    Rule("^[\"'](.+)[\"']$", r"\1"),
    Rule("^['_,:;-]"),
    Rule("['_,:+-]$"),
    Rule(r"^\.\S+$"),
)


def clean_caption(caption: str) -> str:
    """``caption`` in lower case with all rules applied, as the authors give it to T5."""
    return _cleaned_once(_cleaned_once(caption))


def _cleaned_once(caption: str) -> str:
    import ftfy

    caption = _applied(BEFORE_MARKUP, unquote_plus(caption).strip().lower())
    caption = _applied(BEFORE_REPAIR, _without_markup(caption))
    if len(re.findall("[-_]", caption)) > 3:  # words-joined-like-this
        caption = re.sub("[-_]", " ", caption)
    caption = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
    return _applied(AFTER_REPAIR, caption).strip()


def _applied(rules: Iterable[Rule], caption: str) -> str:
    for rule in rules:
        caption = re.sub(rule.pattern, rule.by, caption)
    return caption


def _without_markup(caption: str) -> str:
    from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning

    with warnings.catch_warnings():  # a caption may look like a URL or a path
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        return BeautifulSoup(caption, "html.parser").text
