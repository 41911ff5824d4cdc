import pytest
from streaming.helpers import save

from prunerzero.streaming import decision
from prunerzero.streaming.journal import Journal
from prunerzero.streaming.memory import available_memory, trim
from prunerzero.study import Study


def test_it_streams_when_the_weights_are_more_than_half_of_the_free_memory(tmp_path, monkeypatch):
    source = save(tmp_path / "source", shard="30KB")
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert decision.weight_bytes(str(source)) == size
    for free, expected in ((2 * size, False), (2 * size - 1, True), (None, False)):
        monkeypatch.setattr(decision, "available_memory", lambda free=free: free)
        reason = decision.reason_to_stream(str(source), tmp_path / "out")
        assert (reason is not None) == expected


def test_it_goes_on_streaming_whatever_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(decision, "available_memory", lambda: 10**15)
    source = str(save(tmp_path / "source"))
    assert decision.reason_to_stream(source, tmp_path / "out") is None
    with Journal(tmp_path / "out.partial") as journal:
        journal.open({})
        journal.commit()
    assert "going on with" in decision.reason_to_stream(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["no/such-model", "gpt2"])
def test_an_unknown_size_is_no_reason(name, tmp_path):
    assert decision.weight_bytes(name) is None
    assert decision.reason_to_stream(name, tmp_path / "out") is None


def test_free_memory_is_known_here():
    assert available_memory() > 2**20
    trim()


def test_a_search_streams_sooner_and_goes_on_as_it_was_begun(tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    for free, expected in ((4 * size, False), (4 * size - 1, True)):
        monkeypatch.setattr(decision, "available_memory", lambda free=free: free)
        reason = decision.reason_to_search_streamed(str(source), tmp_path / "new.db")
        assert (reason is not None) == expected
    for compute, expected in (("cpu, float32, streamed", True), ("cpu, float32", False)):
        study = tmp_path / f"{expected}.db"
        Study.create(study, {"compute": compute}).close()
        for free in (1, 10**15):
            monkeypatch.setattr(decision, "available_memory", lambda free=free: free)
            reason = decision.reason_to_search_streamed(str(source), study)
            assert (reason is not None) == expected
