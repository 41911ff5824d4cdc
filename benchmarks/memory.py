"""Peak memory of streamed pruning, and its time against pruning in memory.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --json           # about an hour on one core
    OMP_NUM_THREADS=1 python benchmarks/memory.py --quick --json   # without the 7B shape

Random Llama-shaped checkpoints are written shard by shard into a temporary directory (``--folder``
chooses where; 6 GB) and deleted afterwards. On a processor without bfloat16 products the passes
run in float32, which takes more memory but a twentieth of the time. Every run is a process of its
own whose peak resident set the kernel tells (VmHWM; the usual ru_maxrss also counts the process it
was started from).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import quiet  # noqa: F401  before torch
import torch
from torch import Tensor

from prunerzero import Metric, Pattern, load_model, prune
from prunerzero.files import write_json
from prunerzero.models.compute import has_fast_bfloat16
from prunerzero.packing.container import ShardWriter
from prunerzero.packing.weightfile import TensorInfo
from prunerzero.pruning.checkpoint import save_checkpoint
from prunerzero.streaming import prune_streamed

PATTERN = Pattern.parse("50%")
WANDA, GRADIENT = "W * A", "W * A * F"
LENGTH = 512
DEMO, DEMO_WINDOWS = "smollm2", 16
DTYPE = None if has_fast_bfloat16(torch.device("cpu")) else "float32"


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model in bfloat16.

    Attributes:
        blocks: how many.
        width: hidden size.
        inner: of the feed-forward part.
        heads: of attention; 64 or 128 wide.
        kv_heads: of keys and values.
        vocabulary: tokens.
    """

    blocks: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000


SHALLOW = Shape(8, 1024, 2816, 16, 4)
DEEP = Shape(32, 1024, 2816, 16, 4)
ONE_BILLION = Shape(22, 2048, 5632, 32, 4)
SEVEN_BILLION = Shape(4, 4096, 11008, 32, 32)


def main() -> None:
    """Measures everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the 7B shape")
    parser.add_argument("--windows", type=int, default=32, help="calibration windows of 512 tokens")
    parser.add_argument("--repeats", type=int, default=2, help="of the timings on the demo model")
    parser.add_argument("--only", choices=["depth", "1b", "7b", "time"], help="one part of it")
    parser.add_argument("--folder", help="where the checkpoints are made; default: a temporary")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", nargs=2, metavar=("KIND", "ARGUMENTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(arguments.run[0], json.loads(arguments.run[1]))))
        return
    parts = [arguments.only] if arguments.only else ["depth", "1b", "time"]
    if not arguments.only and not arguments.quick:
        parts.append("7b")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="prunerzero-memory-") as folder:
        place = Path(folder)
        result["baseline_peak_bytes"] = child("import", {})["peak_rss_bytes"]
        if "depth" in parts:
            result |= depth(place, arguments.windows)
        if "1b" in parts:
            result |= peaks(place, ONE_BILLION, arguments.windows, "")
        if "time" in parts:
            result |= times(place, arguments.repeats)
        if "7b" in parts:
            result |= peaks(place, SEVEN_BILLION, arguments.windows, "seven_billion_")
    result |= {
        "windows": arguments.windows,
        "threads": torch.get_num_threads(),
        "dtype": DTYPE or "bfloat16",
    }
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def depth(folder: Path, windows: int) -> dict[str, Any]:
    """How much more memory four times as many blocks take, the larger of both recipes."""
    found: dict[str, Any] = {}
    growth = {}
    for name, formula in (("wanda", WANDA), ("gradient", GRADIENT)):
        both = []
        for shape in (SHALLOW, DEEP):
            with checkpoint(folder, shape) as source:
                measured = stream(folder, source, formula, windows)
            both.append(measured["peak_rss_bytes"])
            found[f"depth_{name}_{shape.blocks}_peak_bytes"] = measured["peak_rss_bytes"]
        growth[name] = both[1] / both[0] - 1
        found[f"depth_{name}_growth"] = growth[name]
    return found | {"depth_growth": max(growth.values())}


def peaks(folder: Path, shape: Shape, windows: int, prefix: str) -> dict[str, Any]:
    """Peak memory and time of both recipes on one shape."""
    found: dict[str, Any] = {}
    with checkpoint(folder, shape) as source:
        for name, formula in (("wanda", WANDA), ("gradient", GRADIENT)):
            measured = stream(folder, source, formula, windows)
            found[f"{prefix}{name}_peak_bytes"] = measured["peak_rss_bytes"]
            found[f"{prefix}{name}_seconds"] = measured["seconds"]
    return found


def times(folder: Path, repeats: int) -> dict[str, Any]:
    """Both paths on the demo model, from opening the checkpoint to the finished output."""
    seconds: dict[str, list[float]] = {"memory": [], "stream": []}
    for _ in range(repeats):
        for kind, values in seconds.items():
            with tempfile.TemporaryDirectory(dir=folder) as output:
                arguments = {
                    "source": DEMO,
                    "output": f"{output}/out",
                    "formula": WANDA,
                    "windows": DEMO_WINDOWS,
                    "vocabulary": 49000,
                }
                values.append(child(kind, arguments)["seconds"])
    best = {kind: min(values) for kind, values in seconds.items()}
    return {
        "memory_seconds": seconds["memory"],
        "stream_seconds": seconds["stream"],
        "streaming_ratio": best["stream"] / best["memory"],
    }


def stream(folder: Path, source: Path, formula: str, windows: int) -> dict[str, Any]:
    """A streamed run in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        arguments = {
            "source": str(source),
            "output": f"{output}/out",
            "formula": formula,
            "windows": windows,
            "vocabulary": 32000,
        }
        return child("stream", arguments)


def child(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Runs one measurement in a fresh process."""
    command = [sys.executable, __file__, "--run", kind, json.dumps(arguments)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    print(f"{kind} {arguments}: {measured}", file=sys.stderr, flush=True)
    return measured


def run(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The measurement itself."""
    began = time.perf_counter()
    if kind != "import":
        prune_one(kind, **arguments)
    return {"seconds": time.perf_counter() - began, "peak_rss_bytes": peak()}


def prune_one(
    kind: str, source: str, output: str, formula: str, windows: int, vocabulary: int
) -> None:
    """Prunes on random tokens, streamed or in memory."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (windows, LENGTH), generator=generator)
    metric = Metric.parse(formula)
    if kind == "stream":
        prune_streamed(
            source, output, metric, PATTERN, calibration=tokens, dtype=DTYPE, device="cpu"
        )
        return
    model, tokenizer = load_model(source, dtype=DTYPE, device="cpu")
    result = prune(model, tokenizer, metric, PATTERN, calibration=tokens, dtype=DTYPE)
    save_checkpoint(model, tokenizer, result, output, source)


def peak() -> int:
    """Largest resident set of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark needs /proc (Linux)")


@contextmanager
def checkpoint(folder: Path, shape: Shape) -> Iterator[Path]:
    """A random checkpoint of that shape, a shard a block, while the context lasts."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        place = Path(directory)
        write_json(place / "config.json", config(shape))
        shards = {"outside": outside(shape)}
        shards |= {f"block-{index}": block(shape, index) for index in range(shape.blocks)}
        files = {
            name: f"model-{number:05}-of-{len(shards):05}.safetensors"
            for number, name in enumerate(shards, start=1)
        }
        generator = torch.Generator().manual_seed(0)
        for name, tensors in shards.items():
            with ShardWriter(place / files[name], tensors, ("",)) as writer:
                for info in tensors:
                    writer.add(info.name, info.dtype, info.shape, bits(info, generator))
        weight_map = {info.name: files[name] for name in shards for info in shards[name]}
        total = sum(info.nbytes for tensors in shards.values() for info in tensors)
        write_json(
            place / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )
        yield place


def config(shape: Shape) -> dict[str, Any]:
    """The shape's config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "shape": asdict(shape),
    }


def outside(shape: Shape) -> list[TensorInfo]:
    """Embeddings, final norm and head."""
    table = (shape.vocabulary, shape.width)
    return [
        TensorInfo("model.embed_tokens.weight", "BF16", table),
        TensorInfo("model.norm.weight", "BF16", (shape.width,)),
        TensorInfo("lm_head.weight", "BF16", table),
    ]


def block(shape: Shape, index: int) -> list[TensorInfo]:
    """One block's tensors."""
    width, inner = shape.width, shape.inner
    keys = width // shape.heads * shape.kv_heads
    parts = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    return [
        TensorInfo(f"model.layers.{index}.{name}.weight", "BF16", size)
        for name, size in parts.items()
    ]


def bits(info: TensorInfo, generator: torch.Generator) -> Any:
    """Random weights: norms of ones, everything else normal with deviation 0.02."""
    values: Tensor = torch.ones(info.shape)
    if len(info.shape) > 1:
        values = torch.randn(info.shape, generator=generator).mul_(0.02)
    return values.bfloat16().view(torch.int16).numpy()


def table(result: dict[str, Any]) -> str:
    """The result as text, memory in MiB."""
    lines = []
    for name, value in result.items():
        shown = f"{value / 2**20:.0f} MiB" if name.endswith("_bytes") else value
        lines.append(f"{name:36} {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
