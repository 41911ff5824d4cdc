import pytest

from prunerzero.evaluation.zeroshot.passages import complete_sentences, last_word, sentence_order

PASSAGE = (
    "Mrs. E. Haines grew roses in the garden.\n\nShe sold them at the market in 1933. "
    'People said "They are the best!" Nobody else in Portland had such flowers. It broke off in'
)
SENTENCES = [
    "Mrs. E. Haines grew roses in the garden.",
    "She sold them at the market in 1933.",
    'People said "They are the best!"',
    "Nobody else in Portland had such flowers.",
]


def test_sentences_are_complete_and_not_cut_at_initials():
    assert complete_sentences(PASSAGE) == SENTENCES
    assert complete_sentences("no end") == []


def test_both_orders_hold_the_same_sentences():
    row = sentence_order(PASSAGE)
    right, wrong = row["choices"][row["answer"]], row["choices"][1 - row["answer"]]
    assert row["context"] == SENTENCES[0]
    assert right == " ".join(SENTENCES[1:]) != wrong
    assert len(right) == len(wrong)
    assert all(sentence in wrong for sentence in SENTENCES[1:])
    assert row["passage"] == PASSAGE
    assert sentence_order(PASSAGE) == row


def test_the_right_choice_has_no_fixed_place():
    rows = [sentence_order(f"Passage {number}. {PASSAGE}") for number in range(40)]
    assert 10 < sum(row["answer"] for row in rows) < 30
    assert all(row["choices"][0] != row["choices"][1] for row in rows)


def test_last_word_among_words_of_the_passage():
    row = last_word(PASSAGE)
    assert row["context"].endswith("Portland had such")
    assert row["choices"][row["answer"]] == "flowers"
    others = [choice for choice in row["choices"] if choice != "flowers"]
    assert len(set(others)) == 3
    assert all(other in PASSAGE and other.islower() and len(other) > 3 for other in others)


@pytest.mark.parametrize("text", ["", "One sentence only.", "Short words at the end of it all so."])
def test_passages_without_a_question(text):
    assert sentence_order(text) is None
    assert last_word(text) is None
