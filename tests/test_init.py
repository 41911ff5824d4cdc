import subprocess
import sys

import pytest

import prunerzero

HEAVY = ("torch", "transformers", "pydantic", "numpy", "datasets")


def test_import_loads_nothing_heavy():
    code = f"import sys, prunerzero; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_imported_on_use():
    from prunerzero.errors import InputError
    from prunerzero.study import Study

    assert prunerzero.InputError is InputError
    assert prunerzero.Study is Study
    assert set(prunerzero.__all__) <= set(dir(prunerzero))
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        prunerzero.prunes  # noqa: B018
