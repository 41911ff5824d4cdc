import pytest

from prunerzero.evaluation.protocol import Protocol, protocol_of


def test_what_is_read_how():
    assert protocol_of("wikipedia", 512) == Protocol(512, "held-out", "drawn")
    assert protocol_of("wikipedia+web", 512) == Protocol(512, "held-out", "drawn")
    assert protocol_of("some/file.txt", 512) == Protocol(512, "whole", "consecutive")


@pytest.mark.parametrize(
    ("text", "separator", "most"),
    [("wikitext2", "\n\n", None), ("ptb", " ", None), ("c4", " ", 256)],
)
def test_the_papers_texts(text, separator, most):
    """As in sparsegpt's datautils.py and wanda's lib/data.py."""
    protocol = protocol_of(text, 2048)
    assert protocol == Protocol(2048, "held-out", "consecutive", most, separator, True)
    assert Protocol(**protocol.to_json()) == protocol


def test_in_words():
    assert str(protocol_of("c4", 2048)) == (
        "the first 256 consecutive windows of 2048 tokens of held-out documents, joined by ' ', "
        "with special tokens"
    )
    assert str(protocol_of("a.txt", 64)) == (
        "consecutive windows of 64 tokens of the whole text, joined by '\\n\\n', no special tokens"
    )
