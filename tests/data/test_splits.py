from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.data.documents import Document
from prunerzero.data.splits import SHARES, Split, documents_of, split_documents
from prunerzero.errors import InputError


def documents(texts):
    return [Document(text, "test", str(number)) for number, text in enumerate(texts)]


def hashes(split):
    return {key: {document.hash for document in value} for key, value in split.items()}


texts = st.lists(st.text(min_size=1, max_size=50), min_size=4, max_size=40, unique=True)


@given(texts, st.randoms())
def test_splits_are_a_partition_that_the_order_of_documents_does_not_change(texts, random):
    found = documents(texts)
    result = split_documents(found)
    assert sorted(d.text for part in result.values() for d in part) == sorted(texts)
    assert all(part and {d.split for d in part} == {split} for split, part in result.items())
    for part in result.values():  # the order of the source is kept
        assert [int(d.name) for d in part] == sorted(int(d.name) for d in part)
    shuffled = random.sample(found, len(found))
    assert hashes(split_documents(shuffled)) == hashes(result)


@given(texts)
def test_splitting_again_changes_nothing(texts):
    result = split_documents(documents(texts))
    assert split_documents([d for part in result.values() for d in part]) == result


@given(st.lists(st.integers(1, 60), min_size=4, max_size=60))
def test_shares_are_exact_to_within_the_longest_document(lengths):
    found = documents(f"{number:03d}" + "x" * length for number, length in enumerate(lengths))
    total = sum(len(d.text) for d in found)
    longest = max(len(d.text) for d in found)
    for split, part in split_documents(found).items():
        characters = sum(len(d.text) for d in part)
        assert characters <= SHARES[split] * total + longest


def test_a_huge_document_fills_one_split_only():
    found = documents(["a" * 100_000, *(f"{number}" * 100 for number in range(10))])
    sizes = sorted(
        sum(len(d.text) for d in part if len(d.text) < 100_000)
        for part in split_documents(found).values()
    )
    assert sizes[1] >= 100


def test_shares_of_many_documents():
    found = documents(f"{number:04d}" * (1 + number % 7) for number in range(1000))
    total = sum(len(d.text) for d in found)
    for split, part in split_documents(found).items():
        assert sum(len(d.text) for d in part) / total == pytest.approx(
            float(SHARES[split]), abs=0.01
        )


def test_shares_add_up():
    assert sum(SHARES.values()) == 1
    assert set(SHARES) == set(Split)


def test_own_splits_of_a_source_are_kept():
    found = documents(f"text {number}" for number in range(10))
    found[3] = replace(found[3], split=Split.HELDOUT)
    found[7] = replace(found[7], split=Split.VALIDATION)
    result = split_documents(found)
    assert [d.name for d in result[Split.HELDOUT]] == ["3"]
    assert [d.name for d in result[Split.VALIDATION]] == ["7"]
    assert len(result[Split.CALIBRATION]) + len(result[Split.SELECTION]) == 8


def test_too_few_documents_name_the_source():
    with pytest.raises(InputError, match=r"text test: too short .* 3 documents .* at least 4"):
        split_documents(documents(["a", "b", "c"]))


def test_a_split_without_documents_is_an_error():
    heldout = split_documents(documents("abcdefgh"))[Split.HELDOUT]
    assert documents_of(heldout, Split.HELDOUT) == heldout
    with pytest.raises(InputError, match="no documents of the calibration split"):
        documents_of(heldout, Split.CALIBRATION)
