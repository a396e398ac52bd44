import pytest

from gpt2.report import formats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.number(1234.56, 1), "1,234.6"),
        (formats.number(-0.5, 1), "−0.5"),
        (formats.number(None), "–"),
        (formats.signed(0.04), "+0.0"),
        (formats.signed(-1234.5), "−1,234.5"),
        (formats.compact(999_999), "1000 k"),
        (formats.compact(4_273_664), "4.27 M"),
        (formats.compact(124e6), "124 M"),
        (formats.compact(12), "12"),
        (formats.duration(0.04), "0.0 s"),
        (formats.duration(348.4), "5 min 48 s"),
        (formats.duration(3599.9), "1 h 0 min"),
        (formats.memory(893.9), "894 MiB"),
        (formats.memory(3165.8), "3.1 GiB"),
        (formats.metric(1242976), "1,242,976"),
        (formats.metric(2.93261), "2.933"),
        (formats.metric(True), "true"),
        (formats.metric_change(None), ""),
        (formats.metric_change(-3), "−3"),
        (formats.parameter(None), "null"),
        (formats.parameter(["a", 1]), '["a", 1]'),
        (formats.parameter("auto"), "auto"),
        (formats.clip("abc", 3), "abc"),
        (formats.clip("abcd", 3), "abc… (4 characters)"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text.replace(formats.NARROW_SPACE, " ") == expected
