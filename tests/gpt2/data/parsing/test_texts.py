"""Text files as documents, and the text of HTML."""

import tracemalloc
from html import escape
from io import BytesIO

import pytest

from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.formats import Reader
from gpt2.data.parsing.rows import Row
from gpt2.data.parsing.texts import html_text
from gpt2.data.tokenizer.files import END_OF_TEXT

WANTED = Wanted({"text": "text"}, ("text",))
STORIES = [f"Once upon a time, bird {n} sang.\n\nThe end é {n}." for n in range(300)]


def rows(
    content: bytes | str, separator: str = END_OF_TEXT, name: str = "a.txt", **keys: int
) -> list[Row]:
    content = content.encode() if isinstance(content, str) else content
    return list(Reader(WANTED, "text", separator=separator, **keys).rows(name, BytesIO(content)))


def texts(content: bytes | str, separator: str = END_OF_TEXT) -> list[object]:
    return [row.value for row in rows(content, separator)]


@pytest.mark.parametrize("mark", [END_OF_TEXT, "\n---\n", "###", "aa"])
@pytest.mark.parametrize("around", ["", "\n", "\r\n"])
def test_a_file_is_divided_at_a_separator(mark: str, around: str) -> None:
    content = f"{around}{mark}{around}".join(STORIES)
    found = rows(content, mark)
    assert [row.value for row in found] == STORIES
    assert found[2] == Row("a.txt:3", "document 3", STORIES[2], separator=mark)
    assert texts(f"{mark}{content}{mark}\n{mark} \n", mark) == STORIES


def test_a_text_without_the_separator_is_unchanged() -> None:
    content = "\nOne\n\n\nTwo <|endoftext\n"
    assert rows(content) == [Row("a.txt", "", content)]
    assert texts(content, "none") == [content]
    marked = END_OF_TEXT.join(STORIES)
    assert texts(marked, "none") == [marked]


def test_blank_lines_divide() -> None:
    content = "\n\nOne\nline\n\n \t\nTwo\r\n\r\nThree"
    assert texts(content, "blank-lines") == ["One\nline", "Two", "Three"]
    assert texts("One\nline\n", "blank-lines") == ["One\nline\n"]


def test_nothing_between_separators_is_no_text() -> None:
    (row,) = rows(f"{END_OF_TEXT}\n{END_OF_TEXT}")
    assert row.problem.startswith("empty")
    (row,) = rows("\n\n \n", "blank-lines")
    assert row.problem.startswith("empty")


def test_a_damaged_document_costs_no_other_one() -> None:
    first, second, third = rows(b"One<|endoftext|>Gr\xfc\xdfe<|endoftext|>Three")
    assert (first.value, third.value) == ("One", "Three")
    assert second.place == "document 2"
    assert second.problem.startswith("byte 18 (0xfc) is not UTF-8")


def test_only_a_document_must_fit_into_memory() -> None:
    content = END_OF_TEXT.join(STORIES * 200).encode()
    file, count = BytesIO(content), 0
    reader = Reader(WANTED, "text", separator=END_OF_TEXT, largest=20_000)
    tracemalloc.start()
    for row in reader.rows("a.txt", file):
        count += row.value == STORIES[count % 300]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == len(STORIES) * 200
    assert most < 1_000_000 < len(content) / 2
    good, bad = rows(b"One<|endoftext|>" + b"a" * 1000, largest=500)
    assert good.value == "One"
    assert "too many to hold in memory" in bad.problem


PAGE = """<!DOCTYPE html>
<html><head><title>A &amp; B</title><style>p { color: red }</style>
<script>if (a < b) document.write("<p>no</p>");</script></head>
<body><!-- nor this --><h1>Birds   sing</h1>
<p>One <b>bold</b> word,<br>and a
line.</p><ul><li>first<li>second</ul>
<table><tr><th>a</th><td>1 &lt; 2</td></tr></table>
<pre>def f():
    return 1

f()
</pre>
<p>&eacute;&#20013; the end</p><template><p>hidden</p></template></body></html>"""


def test_the_text_of_html() -> None:
    assert html_text(PAGE).splitlines() == [
        "A & B",
        "Birds sing",
        "One bold word,",
        "and a line.",
        "first",
        "second",
        "a 1 < 2",
        "def f():",
        "    return 1",
        "",
        "f()",
        "é中 the end",
    ]


@pytest.mark.parametrize("name", ["a.html", "a.htm", "A.HTML", "a.xhtml"])
def test_an_html_file_is_one_document(name: str) -> None:
    (row,) = rows(PAGE, name=name)
    assert row == Row(name, "", html_text(PAGE))
    (row,) = rows("<p> </p>", name=name)
    assert row.problem.startswith("empty")


@pytest.mark.parametrize("name", ["page", "page.txt"])
def test_html_is_never_taken_for_text(name: str) -> None:
    (row,) = rows("\n" + PAGE, name=name)
    assert row.problem.startswith("HTML, not text. In params.yaml, format: html extracts its")
    for format, text in {"html": html_text(PAGE), "text": PAGE}.items():
        reader = Reader(WANTED, "text", format=format)  # type: ignore[arg-type]
        assert [row.value for row in reader.rows(name, BytesIO(PAGE.encode()))] == [text]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("no markup & 1 < 2", "no markup & 1 < 2"),
        ("<p>a<p>b", "a\nb"),
        ("a<br/>b<hr />c", "a\nb\nc"),
        ("</pre></p></script>a", "a"),
        ("<div>a<div>b</div></div>", "a\nb"),
        ("<P>A</P><SCRIPT>b</SCRIPT>", "A"),
    ],
)
def test_markup_with_mistakes(markup: str, text: str) -> None:
    assert html_text(markup).strip() == text


def test_escaped_text_comes_back() -> None:
    text = 'if a < b && c > "d": é'
    assert html_text(f"<p>{escape(text)}</p>") == text + "\n"


def test_markdown_is_plain_text() -> None:
    text = "# Title\n\n- *item*\n<b>kept</b>\n"
    for name in ("a.md", "a.markdown"):
        assert rows(text, name=name)[0].value == text
