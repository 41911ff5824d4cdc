"""What strangers may send: readers of hostile input, and strategies that make some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from prunerzero.errors import LONGEST, InputError
from prunerzero.metric import Metric
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.packing.index import FORMAT, INDEX, VERSION, _digest
from prunerzero.packing.reader import PackedCheckpoint
from prunerzero.pruning.allocation import MatrixShape
from prunerzero.pruning.checkpoint import RECORD, pruned_from, sealed, seen_documents
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF, NM = Pattern.parse("50%"), Pattern.parse("2:4")
SHAPES = [
    MatrixShape(f"{kind}.{block}", kind, block, 3, 8, 16) for block in range(3) for kind in "qk"
]


def use_metric(metric: Metric) -> None:
    """What is done with a metric before any tensor is there."""
    assert Metric.parse(str(metric)) == metric
    for mode in ("default", "paper"):
        metric.simplify(mode)
    for group in ("row", "matrix", "model"):
        metric.canonical(group)


def use_recipe(recipe: Recipe) -> None:
    for pattern in (HALF, NM):
        recipe.key(pattern)
    json.dumps(recipe.to_json()).encode()
    recipe.allocation.sparsities(SHAPES, HALF)


def read_text(content: bytes, _: Path) -> None:
    use_metric(Metric.parse(content.decode("utf-8", errors="replace")))
    use_recipe(Recipe.from_text(content.decode("utf-8", errors="replace")))


def read_tree(content: bytes, folder: Path) -> None:
    (folder / "tree.json").write_bytes(content)
    use_metric(Metric.load(folder / "tree.json"))


def read_recipe(content: bytes, folder: Path) -> None:
    (folder / "recipe.json").write_bytes(content)
    recipe = Recipe.load(folder / "recipe.json")
    use_recipe(recipe)
    recipe.save(folder / "saved.json")
    assert Recipe.load(folder / "saved.json") == recipe


def read_record(content: bytes, folder: Path) -> None:
    (folder / RECORD).write_bytes(content)
    for read in (seen_documents, pruned_from):
        read(str(folder))


def read_packed(content: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(content)
    checkpoint = PackedCheckpoint.open(folder)
    for name in checkpoint.entries:
        checkpoint.read(name)


def read_header(content: bytes, folder: Path) -> None:
    """A weight file's first bytes; the file ends there."""
    (folder / "packed.safetensors").write_bytes(content)
    entry = {"encoding": "dense", "dtype": "F32", "shape": [2], "sha256": "0" * 64}
    forge_index(folder, {"a": entry | {"file": "packed.safetensors"}})
    PackedCheckpoint.open(folder).read("a")


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "text": read_text,
    "tree": read_tree,
    "recipe": read_recipe,
    "record": read_record,
    "packed": read_packed,
    "header": read_header,
}


def survives(kind: str, content: bytes, folder: Path) -> bool:
    """Whether a reader accepts the input; anything but a refusal in one line is raised."""
    try:
        READERS[kind](content, folder)
    except InputError as error:
        line = str(error)
        assert line
        assert "\n" not in line
        assert line.isprintable()
        assert len(line) <= LONGEST + 3
        line.encode("utf-8")
        return False
    return True


def forge_index(folder: Path, tensors: Any) -> None:
    """Writes a packed index with the checksum that its tensors have."""
    document = {"format": FORMAT, "version": VERSION, "sha256": _digest(tensors)}
    (folder / INDEX).write_text(json.dumps(document | {"tensors": tensors}))


# Strategies: valid pieces put together wrongly get further than noise.

WORDS = [*OPERATORS, *TERMINALS, *"+-*/(),.", "**", " ", "e", "1", "1e9", "0.5", "-0", "1e-50", "é"]
text = (
    st.lists(st.sampled_from(WORDS), max_size=40).map("".join)
    | st.text(max_size=60)
    | st.tuples(st.sampled_from(["(", "-", "sqrt(", "W+", "W**", "W*("]), st.integers(0, 3000)).map(
        lambda pair: pair[0] * pair[1] + "W"
    )
).map(lambda found: found.encode("utf-8", errors="surrogatepass")) | st.binary(max_size=40)

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 10**400, 1e308, 5e-324])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def mapping(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with most of these keys, and sometimes one that is unknown."""
    extra = st.dictionaries(st.text(max_size=5), anything, max_size=1)
    chosen = st.fixed_dictionaries({}, optional=known)
    return st.tuples(chosen, st.just({}) | extra).map(lambda pair: {**pair[0], **pair[1]})


names = st.sampled_from([*OPERATORS, *TERMINALS])
trees = st.recursive(
    (names | numbers | scalars).map(lambda data: {"data": data}) | anything,
    lambda inner: st.fixed_dictionaries({"data": names}, optional={"left": inner, "right": inner}),
    max_leaves=30,
) | st.tuples(st.sampled_from(["sqrt", "neg", "exp"]), st.integers(0, 3000)).map(
    lambda pair: _chain(*pair)
)


def _chain(operator: str, depth: int) -> str:
    """The text of a deep tree, which `json.dumps` could not write."""
    return f'{{"data":"{operator}","left":' * depth + '{"data":"W"}' + "}" * depth


formulas = st.sampled_from(
    ["W", "W * sqrt(X)", "rowsum(W)", "W * A ** 0.5", "sqrt", "1", "mms(G) - mms(G)", "W /"]
)
curves = st.dictionaries(
    st.sampled_from(["q", "k", "mlp"]), st.lists(numbers, max_size=4) | anything, max_size=3
)
recipes = mapping(
    {
        "metric": formulas | st.dictionaries(st.text(max_size=5), formulas) | anything,
        "group": st.sampled_from(["row", "matrix", "model"]) | anything,
        "allocation": mapping(
            {"name": st.sampled_from(["uniform", "curves"]) | anything, "curves": curves}
        )
        | anything,
        "update": st.just("none") | anything,
        "name": st.text(max_size=300),
        "source": scalars,
        "provenance": anything,
    }
)
uses = mapping({"documents": st.lists(scalars, max_size=3) | anything, "split": scalars})
records = mapping(
    {
        "model": scalars,
        "model_seen": st.lists(scalars, max_size=3) | anything,
        "settings": mapping(
            {
                "calibration": uses | anything,
                "recipe": mapping(
                    {"provenance": mapping({"texts": st.lists(uses | anything)}) | anything}
                )
                | anything,
            }
        )
        | anything,
    }
)
sizes = st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**64, 10**30]) | scalars
entries = mapping(
    {
        "encoding": st.sampled_from(["dense", "bitmask", "nm4"]) | scalars,
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F3"]) | scalars,
        "shape": st.lists(sizes, max_size=4) | anything,
        "file": st.sampled_from(["packed.safetensors", "../packed.safetensors", "."]) | scalars,
        "sha256": st.just("0" * 64) | scalars,
        "kept": sizes,
        "axis": sizes,
    }
)
indices = st.dictionaries(st.text(max_size=5), entries | anything, max_size=3) | anything
headers = st.dictionaries(
    st.sampled_from(["a", "a:dense", "__metadata__"]) | st.text(max_size=5),
    mapping(
        {
            "dtype": st.sampled_from(["F32", "BF16", "F4", "U8"]) | scalars,
            "shape": st.lists(sizes, max_size=3) | anything,
            "data_offsets": st.lists(sizes, min_size=2, max_size=2) | anything,
        }
    )
    | anything,
    max_size=3,
)


def as_json(document: Any) -> bytes:
    """JSON as hostile as Python writes it: NaN, Infinity and halves of characters included."""
    written = document if isinstance(document, str) else _dumped(document)
    return written.encode("utf-8", errors="surrogatepass")


def _dumped(document: Any) -> str:
    try:
        return json.dumps(document)
    except ValueError:  # an integer of more digits than Python writes
        return "1" * 5000


def _sealed(document: Any) -> bytes:
    try:
        return as_json(sealed(document))
    except ValueError:
        return as_json(document)


def _indexed(tensors: Any) -> bytes:
    try:
        digest = _digest(tensors)
    except ValueError:
        digest = ""
    header = {"format": FORMAT, "version": VERSION, "sha256": digest}
    return as_json(header | {"tensors": tensors})


def _weights(pair: tuple[Any, int]) -> bytes:
    header = as_json(pair[0])
    return (len(header) + pair[1]).to_bytes(8, "little", signed=False) + header + bytes(16)


INPUTS: dict[str, st.SearchStrategy[bytes]] = {
    "text": text,
    "tree": trees.map(as_json) | st.binary(max_size=60),
    "recipe": (recipes | anything).map(as_json),
    "record": records.map(_sealed) | anything.map(as_json),
    "packed": indices.map(_indexed) | anything.map(as_json),
    "header": st.tuples(headers | anything, st.sampled_from([0, 0, 0, 1, 10, 2**40])).map(_weights)
    | st.binary(max_size=60),
}
