import pytest

from prunerzero.errors import InputError
from prunerzero.evaluation.measurements import FILE, Measurement, Measurements, key_of

ONE = Measurement((1.0, 2.5), 62, 0.5, 3.0, 0.0, 1 << 20)
NONE = Measurement((), 0, 0.0, 0.0, 0.0, 0, "scores are not finite")


def test_what_is_written_is_found_again(tmp_path):
    with Measurements(tmp_path / "run") as first:
        first.add("a", ONE)
        first.add("b", NONE)
    with Measurements(tmp_path / "run") as again:
        assert again.get("a") == ONE
        assert again.get("b") == NONE
        assert again.get("c") is None
    assert ONE.loss.mean == 1.75


def test_a_line_that_a_kill_cut_is_forgotten(tmp_path):
    with Measurements(tmp_path) as first:
        first.add("a", ONE)
        first.add("b", ONE)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with Measurements(tmp_path) as again:
        assert again.get("a") == ONE
        assert again.get("b") is None
        again.add("b", ONE)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["[]", "{}", '{"key": "a"}', "no", '{"key": "a", "losses": 3}'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / FILE).write_text(line + "\n")
    with pytest.raises(InputError, match="line 1: damaged"):
        Measurements(tmp_path)


def test_two_runs_do_not_share_a_file(tmp_path):
    with Measurements(tmp_path), pytest.raises(InputError, match="is writing to it"):
        Measurements(tmp_path)
    Measurements(tmp_path).__exit__()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        Measurements(tmp_path / "file")


def test_keys_tell_parts_apart():
    assert key_of(a=1, b="x") == key_of(b="x", a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1)}) == 3
