"""Workers know what the user has registered, or one line says why they cannot."""

import os
import subprocess
import sys
import types

import pytest
import torch

from prunerzero.errors import InputError
from prunerzero.evolution.executors.own import Own, install, own_names, packed
from prunerzero.evolution.runner import search
from prunerzero.metric import OPERATORS, TERMINALS, Operator, Shape, Sign, Terminal, operators
from prunerzero.recipe import Recipe
from prunerzero.statistics.collectors import ACTIVATION, COLLECTORS, TOKENS
from prunerzero.statistics.own import register


def doubled(x):
    return x * 2.0


def power(raw, _sample):
    return raw[ACTIVATION] / raw[TOKENS]


@pytest.fixture(autouse=True)
def registries():
    before = [(registry, dict(registry)) for registry in (OPERATORS, TERMINALS, COLLECTORS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


@pytest.fixture
def both():
    operators.register(Operator("doubled", 1, doubled, "2 x"))
    declared = Terminal("Power", Shape.COLUMN, Sign.NON_NEGATIVE, "", "scale-free", "activation")
    register(declared, power, [ACTIVATION, TOKENS])


def forget(*names):
    """As in another process."""
    for name in names:
        for registry in (OPERATORS, TERMINALS, COLLECTORS):
            registry.pop(name, None)


@pytest.mark.usefixtures("both")
def test_the_names_that_a_search_starts_with():
    recipe = Recipe.from_text("doubled(W) * Power ** 0.5 + sqrt(A)")
    assert own_names((), [recipe]) == ["Power", "doubled"]
    assert own_names(["doubled", "zsn", "Hinv"], [Recipe.named("ria")]) == ["doubled"]
    assert own_names((), []) == []


@pytest.mark.usefixtures("both")
def test_functions_that_can_be_found_by_name_travel():
    own = packed(["Power", "doubled"])
    forget("Power", "doubled")
    install(own)
    assert OPERATORS["doubled"].kernel is doubled
    assert COLLECTORS["Power"].finish is power
    assert TERMINALS["Power"].shape is Shape.COLUMN
    there = dict(OPERATORS)
    install(own)  # what is known stays
    assert there == OPERATORS


def test_a_module_that_registers_is_imported(tmp_path, monkeypatch):
    lines = (
        "from prunerzero.metric import Operator, operators",
        "operators.register(Operator('halved', 1, lambda x: x / 2, 'x / 2'))",
    )
    (tmp_path / "my_own_operators.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    [one] = [Own("operator 'halved'", "halved", "my_own_operators", None)]
    install([one])
    assert packed(["halved"]) == [one]


def test_what_cannot_be_had_is_said_in_one_line():
    operators.register(Operator("nameless", 1, lambda x: x + 1, "x + 1"))
    own = packed(["nameless"])
    forget("nameless")
    message = (
        r"^operator 'nameless': workers do not have it \(nothing registers .*top of the script"
    )
    with pytest.raises(InputError, match=message):
        install(own)
    with pytest.raises(InputError, match=r"\(ModuleNotFoundError: No module named 'nowhere'\)"):
        install([Own("terminal 'T'", "T", "nowhere", None)])


def test_a_notebook_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    kernel = types.FunctionType(doubled.__code__, {"__name__": "__main__"})
    kernel.__module__ = "__main__"
    operators.register(Operator("cell", 1, kernel, "2 x"))
    with pytest.raises(InputError, match=r"^operator 'cell': worker processes cannot import"):
        search("no/such model", "50%", study="s.db", executor="process", vocabulary=["cell"])
    assert packed(["cell"], lambda _: b"by value") == [
        Own("operator 'cell'", "cell", "__main__", b"by value")
    ]


def test_functions_travel_by_value_with_ray():
    dumps = pytest.importorskip("ray").cloudpickle.dumps
    operators.register(Operator("nameless", 1, lambda x: x + 1, "x + 1"))
    own = packed(["nameless"], dumps)
    forget("nameless")
    install([Own(one.what, one.name, "__main__", one.content) for one in own])
    assert torch.equal(OPERATORS["nameless"].kernel(torch.ones(2)), torch.full((2,), 2.0))


SCRIPT = """
import sys
from prunerzero import search
from prunerzero.errors import PrunerZeroError
from prunerzero.evolution.settings import Budget
from prunerzero.metric import Operator, operators

def halved(x):
    return x / 2

{top}

def main():
    found = search(
        sys.argv[1], "50%", study=sys.argv[3], budget=Budget(None, 6), preset="random",
        calibration=sys.argv[2], samples=4, sequence_length=32, {options}
        vocabulary=["halved"],
    )
    print(found.candidates)

{bottom}
"""
REGISTER = "operators.register(Operator('halved', 1, {}, 'x / 2'))"
GUARDED = "if __name__ == '__main__':\n    {}\n    try:\n        main()\n" + (
    "    except PrunerZeroError as error:\n        sys.exit(str(error))\n"
)
TOP = REGISTER.format("lambda x: x / 2")


@pytest.fixture
def run(model_directory, text, tmp_path, own_cache):
    def start(top, bottom, executor="process"):
        script = tmp_path / "script.py"
        options = f"executor={executor!r}, workers=1,"
        script.write_text(SCRIPT.format(top=top, bottom=bottom, options=options))
        command = [sys.executable, str(script), model_directory, text, str(tmp_path / "s.db")]
        environment = os.environ | {"PRUNERZERO_CACHE": str(own_cache)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=600
        )

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top", "bottom", "executor"),
    [
        (TOP, GUARDED.format("pass"), "process"),
        ("", GUARDED.format(REGISTER.format("halved")), "process"),
        ("", GUARDED.format(REGISTER.format("lambda x: x / 2")), "ray"),
    ],
)
def test_scripts_that_work(run, top, bottom, executor):
    if executor == "ray":
        pytest.importorskip("ray")
    done = run(top, bottom, executor)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "6"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top", "bottom", "message"),
    [
        ("", GUARDED.format(TOP), "operator 'halved': workers do not have it"),
        (
            TOP,
            "try:\n    main()\nexcept PrunerZeroError as error:\n    sys.exit(str(error))",
            "workers: they import this script, which begins the search again",
        ),
    ],
)
def test_scripts_that_cannot(run, top, bottom, message):
    done = run(top, bottom)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr
