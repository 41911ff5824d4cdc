import json
import math
import shutil

import numpy as np
import pytest

from prunerzero.analysis import bench as benches
from prunerzero.analysis.analyze import Options, analyze
from prunerzero.analysis.inference import Mantel
from prunerzero.analysis.principles import from_masks, from_proxies, from_transfer
from prunerzero.cli.app import main
from prunerzero.errors import InputError
from prunerzero.report.analysis import draw_figures, enrichment_bars, mask_heatmap
from prunerzero.study import Study

SMALL = Options(candidates=5, windows=2, pairs=2, ablations=3)


@pytest.fixture
def counted(monkeypatch):
    """Counts the recipes measured."""
    measured = []
    before = benches.Bench._measure

    def measure(self, recipe, proxies):
        measured.append(recipe.expression)
        before(self, recipe, proxies)

    monkeypatch.setattr(benches.Bench, "_measure", measure)
    return measured


def test_everything_at_once(study, searched, tmp_path):
    content = study.read_bytes()
    options = Options(
        candidates=5,
        windows=2,
        pairs=2,
        ablations=3,
        sensitivity_samples=(1,),
        sensitivity_lengths=(16,),
        patterns=("2:4",),
        texts=(str(searched / "other.jsonl"),),
        models=(str(searched / "tiny"),),
        random=searched / "r.db",
    )
    analysis = analyze(study, options)
    assert study.read_bytes() == content
    perplexities = [row.perplexity for row in analysis.measured]
    assert perplexities == sorted(perplexities)
    assert "wanda" in {row.name for row in analysis.measured}
    assert {row.pattern for row in analysis.correlations} == {"50%", "2:4"}
    assert {"reconstruction error", "block divergence", "fitness of the search"} <= {
        row.proxy for row in analysis.correlations
    }
    assert len(analysis.ablation) <= 3
    assert {row.samples for row in analysis.sensitivity} == {1, 2}
    assert [row.what for row in analysis.transfer] == ["pattern", "text", "model"]
    # The same model under another name orders the same recipes alike.
    same = analysis.transfer[2]
    assert same.best_here_rank_there == 1
    assert same.agreement.kendall.value == pytest.approx(1)
    paper = [row for row in analysis.principles if row.source == "paper"]
    assert len(paper) == 5
    assert paper[4].effect.n == 2  # windows
    assert {row.verdict for row in analysis.principles} <= {
        "confirmed",
        "refuted",
        "not decided",
        "found",
    }

    document = json.loads(analysis.file.read_text())
    assert analysis.file == study.with_name("s.analysis.json")
    assert document["result"]["measured"][0]["perplexity"] == pytest.approx(perplexities[0])
    figures = draw_figures(analysis, tmp_path / "figures")
    assert {path.stem for path in figures} >= {
        "proxies", "masks", "scores", "reconstruction", "sensitivity", "transfer",
    }  # fmt: skip
    assert ("enrichment" in {path.stem for path in figures}) == bool(analysis.enrichment)
    for bar, row in zip(enrichment_bars(analysis), analysis.enrichment, strict=False):
        assert bar.value == pytest.approx(math.log(row.odds_ratio))
        assert bar.low < bar.value < bar.high
    assert all(path.read_text().rstrip().endswith("</svg>") for path in figures)
    heatmap = mask_heatmap(analysis)
    assert sorted(heatmap.names) == sorted(analysis.likeness.names)
    assert np.diag(heatmap.values) == pytest.approx(1)


def test_an_interrupted_analysis_goes_on(study, counted, monkeypatch):
    whole = analyze(study, SMALL)
    everything = list(counted)
    whole.file.unlink()
    counted.clear()

    def stop(step, done, total):
        if step == "candidates" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(study, SMALL, stop)
    assert len(counted) == 3
    again = analyze(study, SMALL)
    assert counted == everything
    assert again.to_json() == whole.to_json()
    counted.clear()
    analyze(study, SMALL)
    assert counted == []
    analyze(study, Options(candidates=5, windows=3, pairs=0, ablations=0))  # other conditions
    assert counted


def test_command(study, capsys):
    line = ["analyze", str(study), "--candidates", "5", "--windows", "2", "--pairs", "1",
            "--ablations", "1"]  # fmt: skip
    assert main([*line, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["principles"]
    assert all(math.isfinite(row["agreement"]["kendall"]["value"])
               for row in document["correlations"])  # fmt: skip
    assert main(line) == 0
    out = capsys.readouterr().out
    for words in ("Cheap readings", "Best of each mask family", "Principles", "s.analysis.json"):
        assert words in out


def test_sequential_is_another_reading(study):
    options = Options(candidates=4, windows=2, pairs=0, ablations=0)
    shot = analyze(study, options)
    chained = analyze(study, Options(**{**vars(options), "sequential": True}))
    by_name = {row.name: row for row in shot.measured}
    assert any(row.perplexity != by_name[row.name].perplexity for row in chained.measured)
    # The proxies are one-shot whatever the perplexity is.
    for row in chained.measured:
        assert row.reconstruction == pytest.approx(by_name[row.name].reconstruction)


def test_refusals(study, searched, tmp_path):
    with pytest.raises(InputError, match="its preset is 'default'"):
        analyze(study, Options(random=searched / "s.db"))
    with pytest.raises(InputError, match="is the study's own"):
        analyze(study, Options(patterns=("50%",)))
    # Part of the study's text is split otherwise than the whole, so that its validation documents
    # are among those that the search has read.
    lines = (searched / "text.jsonl").read_text().splitlines()
    (tmp_path / "part.jsonl").write_text("\n".join(lines[:9]))
    with pytest.raises(InputError, match="validation documents served"):
        analyze(study, Options(texts=(str(tmp_path / "part.jsonl"),), windows=2))
    study.with_name("s.analysis.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="not an analysis of format 1"):
        analyze(study, SMALL)
    few = tmp_path / "few.db"
    with Study.open(study) as opened:
        settings = opened.settings
    Study.create(few, settings).close()
    with pytest.raises(InputError, match="0 distinct candidates are too few"):
        analyze(few, SMALL)
    other = tmp_path / "other.db"
    shutil.copy(searched / "r.db", other)
    import sqlite3

    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE settings SET value = '\"2:4\"' WHERE name = 'pattern'")
    with pytest.raises(InputError, match="its pattern is '2:4'"):
        analyze(study, Options(random=other))


def test_principles_say_what_the_interval_allows(study):
    analysis = analyze(study, SMALL)
    row = analysis.correlations[0]

    def with_tau(value, low, high, n=20):
        kendall = row.agreement.kendall._replace(value=value, low=low, high=high)
        return [row._replace(agreement=row.agreement._replace(kendall=kendall, n=n))]

    assert from_proxies(with_tau(0.8, 0.7, 0.9))[0].confidence == "high"
    assert from_proxies(with_tau(0.8, 0.7, 0.9, n=6))[0].confidence == "moderate"
    assert from_proxies(with_tau(-0.8, -0.9, -0.4))[0].confidence == "moderate"
    nothing = from_proxies(with_tau(0.1, -0.2, 0.4))[0]
    assert nothing.confidence == "low"
    assert "no cheap reading" in nothing.statement
    half = with_tau(0.8, 0.7, 0.9)[0]._replace(among="better half")
    lines = from_proxies([*with_tau(0.8, 0.7, 0.9), half])[0].evidence
    assert [line.split(":")[0] for line in lines] == [
        row.proxy,
        f"{row.proxy}, better half of the recipes",
    ]
    assert from_transfer([]) == []
    clear, unclear = Mantel(0.8, 0.001, 20), Mantel(0.1, 0.4, 10)
    assert from_masks(clear, clear)[0].confidence == "high"
    assert "better half that is not seen" in from_masks(clear, unclear)[0].statement
    assert "not seen to mean" in from_masks(unclear, clear)[0].statement
