"""What lies beside a study: analysis and evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunerzero.errors import InputError
from prunerzero.report.files import read_analysis, read_evaluation

RESULT = {
    "study": "s.db",
    "measured": [
        {"name": "candidate 7", "family": 2, "perplexity": 70.0},
        {"name": "wanda", "family": 0, "perplexity": 80.0},
    ],
    "principles": [
        {"statement": "Gradients matter", "source": "paper", "verdict": "not decided",
         "confidence": "low", "evidence": ["36 with it, 7 without"], "q": 0.18, "effect": None}
    ],
    "ablation": [
        {"edit": "without A", "kinds": [""], "perplexity": 71.0,
         "change": {"change": 0.01, "low": -0.02, "high": 0.04}},
        {"edit": "without W", "kinds": ["q_proj"], "perplexity": 99.0,
         "change": {"change": 0.4, "low": 0.3, "high": 0.5}},
    ],
    "enrichment": [
        {"kind": "operator", "name": "sqrt", "best_with": 5, "best": 5, "all_with": 21, "all": 43,
         "odds_ratio": 15.0, "p": 0.02, "q": 0.26, "also": []}
    ],
}  # fmt: skip


def test_an_analysis_is_read(tmp_path: Path) -> None:
    assert read_analysis(tmp_path / "s.db") is None
    path = tmp_path / "s.analysis.json"
    path.write_text(json.dumps({"format": 1, "conditions": {}, "readings": {}}))
    assert read_analysis(tmp_path / "s.db") is None  # not finished
    path.write_text(json.dumps({"format": 1, "result": RESULT}))
    found = read_analysis(tmp_path / "s.db")
    assert found is not None
    assert found.families == {7: 2}
    assert found.shown.measured == 2
    assert [(edit.edit, edit.kinds) for edit in found.shown.ablation] == [
        ("without W", ["q_proj"]),
        ("without A", []),
    ]
    assert found.shown.principles[0].evidence == ["36 with it, 7 without"]
    assert found.shown.enrichment[0].q == 0.26


@pytest.mark.parametrize("text", ["[]", '{"result": {"measured": [{"name": 3}]}}', "nonsense"])
def test_another_file_in_its_place_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.analysis.json").write_text(text)
    with pytest.raises(InputError, match=r"s\.analysis\.json") as caught:
        read_analysis(tmp_path / "s.db")
    assert "\n" not in str(caught.value)


def test_an_evaluation_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    continuation = {
        "source": "news", "prompt": "p", "text": "t", "dense": "d", "model": "m", "same_tokens": 3,
    }  # fmt: skip
    document = {
        "model": "pruned", "against": "dense", "perplexity": {"wikipedia": 38.2, "news": None},
        "tasks": {"arc": {"acc": 0.5, "acc_norm": 0.6, "items": 100, "details": {"acc": {}}}},
        "deep": {"continuations": [continuation], "blocks": None},
    }  # fmt: skip
    path.write_text(json.dumps(document))
    found = read_evaluation(path)
    assert found.perplexity == {"wikipedia": 38.2, "news": None}
    assert [(one.task, one.metric, one.value) for one in found.accuracies] == [
        ("arc", "acc", 0.5),
        ("arc", "acc_norm", 0.6),
    ]
    assert found.continuations[0].same_tokens == 3
    path.write_text('{"rows": []}')
    with pytest.raises(InputError, match="model: Field required"):
        read_evaluation(path)
