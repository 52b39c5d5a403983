"""A verification as Markdown, and as a page: the report of its run, with both sides' numbers first."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow_eval.peers.peer import Line, Verification
from crossflow_eval.report import check_replaces, render
from crossflow_eval.report.page import Section, html_table
from crossflow_eval.report.runs import entries
from crossflow_eval.report.text import markdown_text, pipes

SUFFIXES = (".md", ".html")
HEADINGS = ("value", "ours", "theirs", "difference", "tolerance", "")
TITLE = "Verified against the original packages"


def check_name(out: Path) -> None:
    """Raise CrossFlowError where a verification cannot be written as ``out``, or would replace what is none."""
    if out.suffix not in SUFFIXES:
        raise CrossFlowError(f"--out {out} ends with neither {' nor '.join(SUFFIXES)}; give such a name.")
    check_replaces(out)


def rendered(verification: Verification, folder: Path, out: Path) -> str:
    """The text of the file ``out``: Markdown, or the page of the run in ``folder``."""
    if out.suffix == ".md":
        return markdown(verification)
    first = [Section(title=TITLE, body=_body(verification), first=True)]
    return render(entries([folder]), "html", beside=out.parent, sections=first)


def markdown(verification: Verification) -> str:
    """The whole verification: what proved itself, both sides' numbers, by whom they are, and what was not verified."""
    facts, ways, left = _facts(verification), _ways(verification), _left(verification)
    parts = [f"**{TITLE}**", *map(markdown_text, facts)]
    if verification.verified:
        parts += [pipes([[markdown_text(cell) for cell in row] for row in _rows(verification)]).rstrip()]
        parts += ["\n".join(f"- {markdown_text(way)}" for way in ways)]
    if left:
        parts += ["Not verified:", "\n".join(f"- {markdown_text(each)}" for each in left)]
    parts += ["Protocols:", "\n".join(f"- {markdown_text(each)}" for each in _protocols(verification))]
    return "\n\n".join(parts) + "\n"


def _body(verification: Verification) -> str:
    def several(sentences: Sequence[str]) -> str:
        return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in sentences)}</ul>" if sentences else ""

    facts = "".join(f"<p>{escape(fact)}</p>" for fact in _facts(verification))
    table = html_table(_rows(verification)) if verification.verified else ""
    left = _left(verification)
    missing = f"<h3>Not verified</h3>{several(left)}" if left else ""
    return f"{facts}{table}{several(_ways(verification))}{missing}"


def _facts(verification: Verification) -> list[str]:
    """What was found, of which run, and by what."""
    settings, verified, wrong = verification.settings, verification.verified, verification.wrong
    verdict = f"{len(verified)} of {len(verification.lines)} numbers were computed again by other code from the same "
    verdict += f"outputs; {len(wrong)} disagree: {', '.join(_names(wrong))}." if wrong else "outputs, and all agree."
    if not verified:
        verdict = "No number could be computed again by other code."
    proof = (
        f"The folder proves itself: rows and outputs are as they were scored, under the digest {verification.sealed}."
        if verification.sealed
        else "The folder is of an earlier version and carries no digests, so nothing says that it is as it was scored."
    )
    packages = {**verification.packages, "Python": verification.environment["python"]}
    return [
        verdict,
        proof,
        f"Run {verification.digest}: {settings.model} on the suite {settings.suite}, version "
        f"{settings.suite_version}, {verification.outputs:,} outputs, seed {settings.seed}; examples "
        f"{verification.data_sha256}.",
        f"By {', '.join(f'{name} {version}' for name, version in packages.items())}. Intervals are this project's own, "
        "and are not verified.",
    ]


def _rows(verification: Verification) -> list[list[str]]:
    return [
        list(HEADINGS),
        *(
            [
                line.name,
                f"{line.ours:.9g}",
                f"{line.theirs:.9g}",
                f"{line.difference:.1e}",
                f"{line.tolerance:.1e}",
                "agrees" if line.agrees else "DISAGREES",
            ]
            for line in verification.verified
        ),
    ]


def _ways(verification: Verification) -> list[str]:
    """By whom the numbers are, those of one way together."""
    ways: dict[str, list[Line]] = {}
    for line in verification.verified:
        ways.setdefault(line.way, []).append(line)
    return [f"{', '.join(_names(lines))}: {way}." for way, lines in ways.items()]


def _left(verification: Verification) -> list[str]:
    reasons: dict[str, list[Line]] = {}
    for line in verification.lines:
        if line.agrees is None:
            reasons.setdefault(line.why, []).append(line)
    return [f"{', '.join(_names(lines))}: {why.rstrip('.')}." for why, lines in reasons.items()]


def _protocols(verification: Verification) -> list[str]:
    """The protocol of each metric."""
    said = {
        name: {"": f"not measured: {of['absent']}"} if "absent" in of else of
        for name, of in verification.protocol.items()
    }
    return [f"{name}: {'; '.join(f'{key} {value}'.strip() for key, value in of.items())}" for name, of in said.items()]


def _names(lines: Sequence[Line]) -> list[str]:
    return [line.name for line in lines]
