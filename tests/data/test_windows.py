import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.data.documents import Document
from prunerzero.data.splits import Split, split_documents
from prunerzero.data.windows import (
    Windows,
    WindowSampler,
    check_length,
    consecutive_windows,
    encode,
    sample_windows,
)
from prunerzero.errors import InputError

LENGTH = 32
lengths = st.lists(st.integers(3, 300), min_size=8, max_size=30)


def read(windows, tokenizer):
    return [tokenizer.decode(row) for row in windows.tokens]


@given(lengths, st.integers(0, 5))
def test_windows_lie_in_documents_of_their_split(tokenizer, make_document, lengths, seed):
    documents = [make_document(*pair) for pair in enumerate(lengths)]
    splits = split_documents(documents)
    for split, own in splits.items():
        if len("\n\n".join(d.text for d in own)) < LENGTH:
            with pytest.raises(InputError, match="less than one window"):
                WindowSampler(documents, tokenizer, split, LENGTH, seed)
            continue
        sampler = WindowSampler(documents, tokenizer, split, LENGTH, seed)
        windows = sampler.draw(0, sampler.capacity)
        assert windows.split is split
        assert windows.tokens.shape == (sampler.capacity, LENGTH)
        assert set(windows.documents) <= {d.hash for d in own}
        # Short documents are joined in order; every window is a piece of a long one or of those.
        texts = [d.text for d in own if len(d.text) >= LENGTH]
        texts.append("\n\n".join(d.text for d in own if len(d.text) < LENGTH))
        for window in read(windows, tokenizer):
            assert any(window in text for text in texts)


@given(lengths, st.integers(1, 6), st.integers(0, 3))
def test_draws_of_an_epoch_do_not_overlap(tokenizer, make_document, lengths, count, seed):
    documents = [make_document(*pair) for pair in enumerate([*lengths, 40])]
    sampler = WindowSampler(documents, tokenizer, None, LENGTH, seed)
    count = min(count, sampler.capacity)
    seen = set()
    for index in range(sampler.capacity // count):
        for row in sampler.draw(index, count).tokens:
            # All pieces of 13 bytes name their place, so two windows that overlap by so much share
            # one; the joins of short documents need as much.
            text = tokenizer.decode(row)
            pieces = {text[i : i + 13] for i in range(LENGTH - 12)}
            assert not pieces & seen
            seen |= pieces


def test_windows_that_touch_share_no_token(tokenizer):
    document = Document("".join(chr(48 + n) for n in range(75)), "test", "all different")
    for seed in range(20):
        tokens = WindowSampler([document], tokenizer, None, 25, seed).draw(0, 3).tokens
        assert tokens.unique().numel() == 75


def test_draws_repeat_in_any_order_and_are_fresh(tokenizer, make_document):
    documents = [make_document(number, 500) for number in range(12)]
    options = (documents, tokenizer, Split.SELECTION, LENGTH)
    sampler = WindowSampler(*options, seed=3)
    per_epoch = sampler.capacity // 5
    first = [sampler.draw(index, 5) for index in range(3 * per_epoch)]
    again = WindowSampler(*options, seed=3)
    assert [again.draw(index, 5).hash for index in reversed(range(len(first)))] == [
        windows.hash for windows in reversed(first)
    ]
    assert len({windows.hash for windows in first}) == len(first)
    epochs = [first[n * per_epoch : (n + 1) * per_epoch] for n in range(3)]
    rows = [{tuple(row.tolist()) for w in epoch for row in w.tokens} for epoch in epochs]
    assert len(rows[0] & rows[1]) < len(rows[0]) / 2  # cut at other offsets
    assert WindowSampler(*options, seed=4).draw(0, 5).hash != first[0].hash
    assert sample_windows(*options[:3], 5, LENGTH, 3).hash == first[0].hash


def test_seed_never_changes_the_split(tokenizer, make_document):
    documents = [make_document(number, 200) for number in range(12)]
    own = {d.hash for d in split_documents(documents)[Split.CALIBRATION]}
    for seed in range(10):
        assert (
            set(sample_windows(documents, tokenizer, Split.CALIBRATION, 8, LENGTH, seed).documents)
            <= own
        )


def test_windows_spread_over_documents(tokenizer, make_document):
    documents = [make_document(number, 330) for number in range(10)]
    for seed in range(5):
        sampler = WindowSampler(documents, tokenizer, None, LENGTH, seed)
        assert sampler.capacity == 100
        assert all(len(sampler.draw(index, 10).documents) == 10 for index in range(10))


def test_draws_are_in_proportion_to_length(tokenizer, make_document):
    documents = [make_document(0, 60 * LENGTH), make_document(1, 20 * LENGTH)]
    sampler = WindowSampler(documents, tokenizer, None, LENGTH, 0)
    for index in range(10):
        texts = read(sampler.draw(index, 8), tokenizer)
        assert 5 <= sum(text in documents[0].text for text in texts) <= 7


def test_short_documents_are_joined_without_loss_of_origin(tokenizer, make_document):
    documents = [make_document(number, 10) for number in range(7)]
    sampler = WindowSampler(documents, tokenizer, None, LENGTH, 0)
    windows = sampler.draw(0, sampler.capacity)
    # 10 + 2 + 10 + 2 + 10 = 34 bytes twice, the seventh joins the second stretch.
    assert sampler.capacity == 2
    assert set(windows.documents) == {d.hash for d in documents}


def test_parts_of_joined_documents_are_recorded(tokenizer):
    whole = Document("x" * 100, "a file", "a file", parts=("p1", "p2"))
    assert consecutive_windows([whole], tokenizer, LENGTH).documents == ("p1", "p2")
    assert WindowSampler([whole], tokenizer, None, LENGTH).draw(0, 1).documents == ("p1", "p2")


def test_too_many_windows_say_how_many_there_are(tokenizer, make_document):
    documents = [make_document(number, 100) for number in range(4)]
    with pytest.raises(InputError, match=r"text test: 50 windows of 32 .* calibration .* give 3"):
        sample_windows(documents, tokenizer, Split.CALIBRATION, 50, LENGTH)
    with pytest.raises(InputError, match="less than one window of 5000 tokens in its selection"):
        WindowSampler(documents, tokenizer, Split.SELECTION, 5000)


def test_consecutive_windows_follow_the_text(tokenizer, make_document):
    documents = [make_document(number, 45) for number in range(3)]
    windows = consecutive_windows(documents, tokenizer, 20)
    text = "\n\n".join(d.text for d in documents)
    assert "".join(read(windows, tokenizer)) == text[:120]  # 139 bytes, the tail is dropped
    assert windows.split is None
    limited = consecutive_windows(documents, tokenizer, 20, limit=2)
    assert torch.equal(limited.tokens, windows.tokens[:2])
    assert len(consecutive_windows(documents, tokenizer, 20, limit=99)) == 6


def test_consecutive_windows_carry_the_split(tokenizer, make_document):
    splits = split_documents([make_document(number, 100) for number in range(8)])
    for split, documents in splits.items():
        assert consecutive_windows(documents, tokenizer, 20).split is split


def test_text_shorter_than_a_window(tokenizer, make_document):
    with pytest.raises(InputError, match="text test: its 20 tokens are less than one window of 32"):
        consecutive_windows([make_document(0, 20)], tokenizer, 32)


def test_tokens_are_plain_and_quiet(tokenizer, caplog):
    text = "no special tokens, however long the text " * 10
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    assert len(encode(tokenizer, text)) == len(text)
    assert "maximum sequence length" not in caplog.text


def test_windows_refuse_another_purpose(tokenizer):
    tokens = torch.arange(10).view(2, 5)
    windows = Windows(tokens, Split.SELECTION, "test", ("h",))
    windows.require(Split.SELECTION)
    windows.require(Split.CALIBRATION, Split.SELECTION)
    windows.subset(0, 1).require(Split.SELECTION)
    with pytest.raises(
        InputError, match="text test: these windows are for selection, not for held"
    ):
        windows.subset(0, 1).require(Split.HELDOUT)
    Windows(tokens).require(Split.HELDOUT)  # the user's own ids


@pytest.mark.parametrize(
    "tokens",
    [torch.zeros(4, dtype=torch.int64), torch.zeros(2, 4), [[1, 2]], torch.zeros(0, 4).long()],
)
def test_windows_check_the_users_tokens(tokens):
    with pytest.raises(InputError, match="token ids"):
        Windows(tokens)


def test_hash_names_content():
    tokens = torch.arange(12).view(3, 4)
    assert Windows(tokens).hash == Windows(tokens.clone(), Split.HELDOUT, "x").hash
    assert Windows(tokens.t().contiguous().t()).hash == Windows(tokens).hash
    others = [tokens.view(4, 3), tokens.flip(0), tokens + 1, tokens[:2]]
    assert len({Windows(t).hash for t in [tokens, *others]}) == 5


def test_subset():
    windows = Windows(torch.arange(12).view(3, 4), Split.HELDOUT, "x", ("h",))
    part = windows.subset(1, 3)
    assert part.tokens.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert (len(part), part.length, part.documents) == (2, 4, ("h",))
    with pytest.raises(InputError):
        windows.subset(3, 5)


def test_check_length():
    check_length(2048, 2048)
    check_length(2048, None)
    with pytest.raises(InputError, match="2049 is above the model's limit of 2048"):
        check_length(2049, 2048)
    with pytest.raises(InputError, match="at least 2"):
        check_length(1)


def test_real_text_gives_disjoint_splits_and_many_windows(tokenizer):
    seen = {}
    for split in Split:
        windows = sample_windows("wikipedia", tokenizer, split, 64, 512, seed=1)
        assert len(windows.documents) >= 8
        seen[split] = set(windows.documents)
    assert sum(map(len, seen.values())) == len(set.union(*seen.values()))
