"""Numbers and texts formatted for people."""

import json

NONE = "–"
MINUS = "−"
NARROW_SPACE = " "


def number(value: float | None, digits: int = 0) -> str:
    """``1234.5`` as "1,234.5"; None as a dash."""
    return NONE if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    """With its sign: "+1.5", "−1.5"."""
    return f"{value:+,.{digits}f}".replace("-", MINUS)


def compact(value: float | None) -> str:
    """Three digits and a unit: "4.27 M"."""
    if value is None:
        return NONE
    for divisor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{_three_digits(value / divisor)}{NARROW_SPACE}{unit}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """The two largest units: "26.5 s", "5 min 48 s", "3 h 20 min"."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f}{NARROW_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW_SPACE}min {rest}{NARROW_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NARROW_SPACE}h {minutes}{NARROW_SPACE}min"


def memory(mebibytes: float | None) -> str:
    """ "894 MiB", "3.1 GiB"."""
    if mebibytes is None:
        return NONE
    if mebibytes < 1024:
        return f"{mebibytes:.0f}{NARROW_SPACE}MiB"
    return f"{mebibytes / 1024:.1f}{NARROW_SPACE}GiB"


def metric(value: object) -> str:
    """Any metric: integers in full, other numbers with three decimals."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value, 0 if isinstance(value, int) else 3)
    return parameter(value)


def metric_change(difference: float | None) -> str:
    """The difference of two metrics; empty for None."""
    if difference is None:
        return ""
    return signed(difference, 0 if isinstance(difference, int) else 3)


def parameter(value: object) -> str:
    """As it is written in ``params.yaml``."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def clip(text: str, length: int) -> str:
    """The text, or the beginning of a long one with the length of the whole."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
