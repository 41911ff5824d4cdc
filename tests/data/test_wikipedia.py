import bz2

import pytest

from prunerzero.data import wikipedia
from prunerzero.data.wikipedia import articles, strip_markup


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' [[link|shown]] and [[link]].", "Bold shown and link."),
        ('One.<ref name="a/b">{{cite|x}}</ref> Two.<ref name="c" /> Three.', "One. Two. Three."),
        ("Before <!-- a\ncomment --> after.", "Before after."),
        ("{{Infobox|a={{b}}}}\nText.", "Text."),
        ("Text.\n{| class=x\n|-\n| [[File:cell.png]]\n|}\nMore.", "Text.\n\nMore."),
        ("[[File:a.jpg|thumb|A [[caption]].]]Text.", "Text."),
        ("[[Image:a.jpg|thumb]]Text.[[Category:Things]]", "Text."),
        ("Greek ({{lang|el|x}}; {{IPA|y}}) word.", "Greek word."),
        ("Greek ({{lang|el|x}}, meaning) word.", "Greek (meaning) word."),
        ("Text.\n\n== Part ==\nMore.\n\n== See also ==\n* [[Link]]", "Text.\n\nPart\nMore."),
        ("a &amp; b", "a & b"),
        ("Text.\n* {{item}}\n\n\n\n\nMore.", "Text.\n\nMore."),
    ],
)
def test_markup_goes_and_prose_stays(wikitext, text):
    assert strip_markup(wikitext) == text


def test_only_real_articles_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "MIN_CHARACTERS", 10)

    def page(title, text, namespace=0, extra=""):
        return (
            f"<page><title>{title}</title><ns>{namespace}</ns>{extra}"
            f"<revision><text>{text}</text></revision></page>"
        )

    pages = [
        page("Old name", "#REDIRECT [[Article]]", extra='<redirect title="Article" />'),
        page("Article", "Real text, long enough."),
        page("Wikipedia:Policy", "Text about Wikipedia.", namespace=4),
        page("Article (disambiguation)", "Article may refer to many things."),
        page("Stub", "Short."),
        page("Another", "More real text, &lt;b&gt;bold&lt;/b&gt;."),
    ]
    dump = tmp_path / "dump.bz2"
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/x/">{"".join(pages)}</mediawiki>'
    dump.write_bytes(bz2.compress(xml.encode()))
    assert list(articles(dump)) == [
        ("Article", "Real text, long enough."),
        ("Another", "More real text, bold."),
    ]
