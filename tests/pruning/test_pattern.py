from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.errors import InputError
from prunerzero.pruning.pattern import Pattern


@pytest.mark.parametrize(
    ("text", "sparsity", "n", "m"),
    [
        ("50%", Fraction(1, 2), None, None),
        (" 0.5 ", Fraction(1, 2), None, None),
        (".5", Fraction(1, 2), None, None),
        ("87.5%", Fraction(7, 8), None, None),
        ("0.1%", Fraction(1, 1000), None, None),
        ("0.3", Fraction(3, 10), None, None),
        ("1/3", Fraction(1, 3), None, None),
        ("2:4", Fraction(1, 2), 2, 4),
        ("4:8", Fraction(1, 2), 4, 8),
        ("1:4", Fraction(3, 4), 1, 4),
        ("3:4", Fraction(1, 4), 3, 4),
    ],
)
def test_parses(text: str, sparsity: Fraction, n: int | None, m: int | None) -> None:
    assert Pattern.parse(text) == Pattern(sparsity, n, m)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("150%", "between 0% and 100%"),
        ("100%", "between 0% and 100%"),
        ("0%", "between 0% and 100%"),
        ("0.0%", "between 0% and 100%"),
        ("5:4", "0 < N < M"),
        ("4:4", "0 < N < M"),
        ("0:4", "0 < N < M"),
        ("0:0", "0 < N < M"),
        ("50", "write 50%"),
        ("1", "between 0 and 1"),
        ("0", "between 0 and 1"),
        ("3/2", "between 0 and 1"),
        ("1/0", "such as 50%"),
        ("-0.5", "such as 50%"),
        ("-50%", "such as 50%"),
        ("nan", "such as 50%"),
        ("inf%", "such as 50%"),
        ("5e-1", "such as 50%"),
        ("2:4:8", "such as 50%"),
        ("2:", "such as 50%"),
        ("٥٠%", "such as 50%"),
        ("", "such as 50%"),
        ("%", "such as 50%"),
        (".", "such as 50%"),
        ("half\nof it", "such as 50%"),
        ("9" * 5000, "5000 characters"),
    ],
)
def test_refuses_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Pattern.parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_a_pattern_or_an_input_error(text: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except InputError:
        return
    assert 0 < pattern.sparsity < 1


@given(st.fractions(0, 1, max_denominator=10**6).filter(lambda x: 0 < x < 1))
def test_text_of_a_share_parses_back(sparsity: Fraction) -> None:
    pattern = Pattern.unstructured(sparsity)
    assert Pattern.parse(str(pattern)) == pattern


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_text_of_n_m_parses_back(n: int, more: int) -> None:
    pattern = Pattern.parse(f"{n}:{n + more}")
    assert str(pattern) == f"{n}:{n + more}"
    assert Pattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize(
    ("text", "shown"),
    [("0.5", "50%"), ("0.875", "87.5%"), ("0.005", "0.5%"), ("2:4", "2:4"), ("1/3", "1/3")],
)
def test_text_is_the_usual_one(text: str, shown: str) -> None:
    assert str(Pattern.parse(text)) == shown


def test_is_a_key_of_dictionaries() -> None:
    assert {Pattern.parse("50%"): 1}[Pattern.parse("0.5")] == 1
    assert Pattern.parse("2:4") != Pattern.parse("50%")


@pytest.mark.parametrize("sparsity", [Fraction(0), Fraction(1), Fraction(-1, 2)])
def test_share_must_prune_something_and_keep_something(sparsity: Fraction) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        Pattern.unstructured(sparsity)


@given(st.integers(1, 5000), st.integers(1, 4999))
def test_count_of_a_whole_share_is_exact(columns: int, count: int) -> None:
    """`columns * float(count / columns)` rounds below `count` for some of these."""
    if count < columns:
        assert Pattern.unstructured(Fraction(count, columns)).count(columns) == count


def test_count_is_exact_where_floats_are_not() -> None:
    assert int(100 * 0.29) == 28
    assert Pattern.parse("29%").count(100) == 29


def test_width_must_be_a_multiple() -> None:
    Pattern.parse("50%").check_width(7, "q_proj")
    Pattern.parse("2:4").check_width(8, "q_proj")
    with pytest.raises(InputError, match="width 10 of q_proj is not a multiple of 4"):
        Pattern.parse("2:4").check_width(10, "q_proj")


def test_mask_refuses_what_is_not_a_matrix() -> None:
    with pytest.raises(InputError, match="out_features"):
        Pattern.parse("50%").mask(torch.rand(4))
    with pytest.raises(InputError, match="multiple of 4"):
        Pattern.parse("2:4").mask(torch.rand(4, 6))


def test_group_matters_only_where_it_means_something() -> None:
    scores = torch.rand(4, 8)
    with pytest.raises(InputError, match="row or matrix"):
        Pattern.parse("50%").mask(scores, group="column")
    nm = Pattern.parse("2:4")
    assert torch.equal(nm.mask(scores, group="model"), nm.mask(scores))
