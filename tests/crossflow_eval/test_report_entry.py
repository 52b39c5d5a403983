"""A run's folder as the report reads it: records, roles and pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval.report import load
from crossflow_eval.types import Result, Row, Settings


def write_run(folder: Path, model: str = "ours", rows: Sequence[Row] = ()) -> Path:
    """A finished run of one output, without the output."""
    result = Result(
        settings=Settings(suite="fake", suite_version="1", model=model, identity={}),
        protocol={},
        n=1,
        values={},
        higher_is_better={},
        data_sha256="0" * 64,
        environment={},
    )
    (folder / "outputs").mkdir(parents=True)
    (folder / "result.json").write_text(result.model_dump_json())
    (folder / "per_example.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_is_read_with_its__pictures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows=[{"id": "a", "output": "a-0.png"}, {"id": "b", "output": "b-0.txt"}])
    pixels = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(run / "outputs" / "a-0.png")
    first = load(run, label="Ours", role="ceiling")
    assert (first.title, first.role, load(run).title, load(run).role) == ("Ours", "ceiling", "ours", "model")
    large, text = first.picture(first.rows[0]), first.picture(first.rows[1])
    assert large is not None and Image.open(io.BytesIO(large)).size == (192, 96) and text is None
    small = Image.fromarray(pixels[:32, :32])
    small.save(run / "outputs" / "a-0.png")
    assert first.picture(first.rows[0]) == (run / "outputs" / "a-0.png").read_bytes(), "small ones pass as they are"


def test_an_unfinished_or_damaged_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CrossFlowError, match="not finished"):
        load(tmp_path)
    (tmp_path / "result.json").write_text('{"n": ')
    with pytest.raises(CrossFlowError, match="cannot be read as a result"):
        load(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "per_example.jsonl").write_text("{not json\n")
    with pytest.raises(CrossFlowError, match="score the run again"):
        load(run)
    (run / "per_example.jsonl").write_text('{"id": "a", "output": "a-0.png"}\n')
    missing = load(run)
    with pytest.raises(CrossFlowError, match="generate it again"):
        missing.picture(missing.rows[0])
