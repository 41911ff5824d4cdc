import json
import subprocess
import sys

import pytest
from tiny_models import make_text

SMALL = ("--experiments", "methods,sparsity", "--methods", "magnitude,wanda", "--pattern", "50%",
         "--sparsities", "30%", "--seeds", 1, "--samples", 1, "--sequence-length", 32,
         "--windows", 2, "--dtype", "float32")  # fmt: skip


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 400)}) for n in range(8)))
    return path


def test_tables_figures_record(model, text, tmp_path, succeed):
    out = tmp_path / "out"
    found = succeed("reproduce", model, "--output", out, *SMALL, "--calibration", text, "--json")
    assert found["finished"] == found["cells"] == 5
    assert found["output"] == str(out)
    assert [row["method"] for row in found["experiments"]["sparsity"]["rows"]] == [
        "magnitude", "wanda",
    ]  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "cells", "figures", "record.json", "results.md", "tables",
    }  # fmt: skip
    assert len(found["record"]["sessions"]) == 1
    lines = succeed("reproduce", model, "--output", out, *SMALL, "--calibration", text).splitlines()
    assert lines[0] == "Methods by pattern: held-out perplexity"
    assert lines[2].split()[0] == "dense"
    assert lines[-1] == f"5 of 5 measurements: {out / 'results.md'}"


def test_a_budget_says_how_to_go_on(model, text, tmp_path, capsys, succeed):
    out = tmp_path / "out"
    arguments = ("reproduce", model, "--output", out, *SMALL, "--calibration", text)
    found = succeed(*arguments, "--budget", "0.001s", "--json")
    assert found["finished"] < found["cells"] == 5
    assert succeed(*arguments, "--json")["finished"] == 5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--experiments", "nothing"], "experiment 'nothing'"),
        (["--methods", "wnada"], "did you mean 'wanda'"),
        (["--sample-counts", "1,x"], "--sample-counts '1,x'"),
        (["--sparsities", "2:4"], "sparsity '2:4'"),
        (["--budget", "soon"], "budget 'soon'"),
        (["--tasks", "quartz,quartz", "--experiments", "zero-shot"], "named twice"),
        (["--calibration", "nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_found_without_torch(model, text, tmp_path, extra, message):
    arguments = ["reproduce", model, "--output", str(tmp_path / "out"), *map(str, SMALL),
                 "--calibration", str(text), *extra]  # fmt: skip
    code = (
        "import sys; from prunerzero.cli.app import main;"
        f"print(main({arguments!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    [line] = done.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
