import pytest
import torch
from damage import configure
from streaming.helpers import save
from tiny_models import make_model, make_tokens

from prunerzero import Metric, Pattern, load_model, prune
from prunerzero.data.windows import Windows
from prunerzero.errors import InputError
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.models.compute import compute_for
from prunerzero.models.passes import check_runs, run_whole
from prunerzero.streaming import prune_streamed

HALF = Pattern.parse("50%")
WIDE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 3.0}
NEVER = {"rope_type": "linear", "rope_theta": 1e4, "factor": 0.0}
# A family, what its config.json says wrongly though all shapes fit, and what the line says.
BROKEN = {
    "experts": ("mixtral", {"num_experts_per_tok": 9}, r"layers.0.mlp.gate: selected index k"),
    "groups": ("deepseek_v3", {"n_group": 3}, r"layers.1.mlp.gate: shape '\[-1, 3, 1\]'"),
    "rotary": ("phi", {"rope_parameters": WIDE}, r"layers.0.self_attn: The size of tensor a \(8\)"),
    "chunks": ("falcon_h1", {"mamba_chunk_size": 0}, r"layers.0.mamba: integer modulo by zero"),
    "factor": ("llama", {"rope_parameters": NEVER}, "gives NaN on text"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("metric", ["W * A", "W * A * F"])
def test_a_model_that_cannot_run_is_bad_input(case, metric, tmp_path):
    family, settings, message = BROKEN[case]
    source = save(tmp_path / "source", family)
    configure(source, **settings)
    model, _ = load_model(source, device="cpu")
    message = rf"model '{source}': .*{message}.*; compare its config.json with the original's"
    options = {"calibration": make_tokens()}
    with pytest.raises(InputError, match=message):
        prune(model, None, Metric.parse(metric), HALF, **options)
    with pytest.raises(InputError, match=message):
        check_runs(model, make_tokens(), compute_for(model))
    with pytest.raises(InputError, match=message) as caught:
        prune_streamed(
            source, tmp_path / "out", Metric.parse(metric), HALF, device="cpu", **options
        )
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_so_is_one_that_fails_behind_its_blocks(tmp_path):
    source = save(tmp_path / "source")
    configure(source, return_dict=False)
    model, _ = load_model(source, device="cpu")
    with pytest.raises(InputError, match=r"source': cannot run on 16 tokens: 'tuple' object has"):
        measure_loss(model, Windows(make_tokens()))


def test_a_token_that_the_model_does_not_have():
    with pytest.raises(InputError, match="is given token id 300, but knows 256 tokens"):
        run_whole(make_model(), torch.tensor([[1, 300]]))


def test_experts_that_fail_while_they_are_watched():
    model = make_model("mixtral")
    experts = model.model.layers[1].mlp.experts
    experts.gate_up_proj = torch.nn.Parameter(experts.gate_up_proj[..., :-1], requires_grad=False)
    with pytest.raises(InputError, match=r"layers.1.mlp.experts: .*shapes cannot be multiplied"):
        prune(model, None, Metric.parse("W * A"), HALF, calibration=make_tokens(),
              sequential=False, dtype="float32")  # fmt: skip


def broken(*_args, **_kwargs):
    raise RuntimeError("The size of tensor a (4) must match")


class TestOurOwnFaults:
    """What our code does wrong inside a pass is not blamed on the model."""

    @pytest.mark.parametrize("sequential", [True, False])
    def test_in_a_collector(self, sequential, monkeypatch):
        monkeypatch.setattr("prunerzero.statistics.gathering._square_sum", broken)
        with pytest.raises(RuntimeError, match="must match"):
            prune(make_model(), None, Metric.parse("W * A"), HALF, calibration=make_tokens(),
                  sequential=sequential)  # fmt: skip

    def test_in_a_collector_of_gradients(self, monkeypatch):
        monkeypatch.setattr("prunerzero.statistics.gathering._square_sum", broken)
        with pytest.raises(RuntimeError, match="must match"):
            prune(make_model(), None, Metric.parse("W * A * F"), HALF, calibration=make_tokens(),
                  sequential=False)  # fmt: skip

    def test_in_the_watch_over_experts(self, monkeypatch):
        monkeypatch.setattr("prunerzero.models.watching._gates", broken)
        with pytest.raises(RuntimeError, match="must match"):
            prune(make_model("mixtral"), None, Metric.parse("W * A"), HALF,
                  calibration=make_tokens(), sequential=False)  # fmt: skip

    def test_in_a_capture(self, monkeypatch):
        monkeypatch.setattr("prunerzero.models.replay.split_call", broken)
        with pytest.raises(RuntimeError, match="must match"):
            prune(make_model(), None, Metric.parse("W * A"), HALF, calibration=make_tokens())

    def test_in_what_stands_in_for_a_block(self, tmp_path, monkeypatch):
        source = save(tmp_path / "source")
        monkeypatch.setattr("prunerzero.streaming.capture._hidden_of", broken)
        with pytest.raises(RuntimeError, match="must match"):
            prune_streamed(source, tmp_path / "out", Metric.parse("W * A"), HALF, device="cpu",
                           calibration=make_tokens())  # fmt: skip


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory", "out of memory"])
def test_too_little_memory_is_no_fault_of_the_model(words, monkeypatch):
    def exhausted(*_args, **_kwargs):
        raise RuntimeError(words)

    model = make_model()
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", exhausted)
    with pytest.raises(RuntimeError, match=words):
        run_whole(model, make_tokens())
