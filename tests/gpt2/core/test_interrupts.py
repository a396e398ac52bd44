import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from gpt2.core.interrupts import SIGNALS, delayed_interrupts


class Stopped(BaseException):
    pass


def stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Both signals raise `Stopped`."""
    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def current() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_end_of_the_body(number: signal.Signals) -> None:
    done = []
    with pytest.raises(Stopped), delayed_interrupts() as interrupt:
        assert interrupt.signal is None
        signal.raise_signal(number)
        done.append(interrupt.signal)
    assert done == [number]
    assert current() == [stop, stop]


def test_a_second_signal_stops_at_once() -> None:
    done = []
    with pytest.raises(Stopped), delayed_interrupts():
        signal.raise_signal(signal.SIGINT)
        done.append(1)
        signal.raise_signal(signal.SIGTERM)
        done.append(2)
    assert done == [1]


def test_without_a_signal_and_after_an_error_the_handlers_are_restored() -> None:
    with delayed_interrupts():
        pass
    assert current() == [stop, stop]
    with pytest.raises(ZeroDivisionError), delayed_interrupts():
        raise ZeroDivisionError
    assert current() == [stop, stop]


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with delayed_interrupts() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.signal is None
    assert current() == [signal.SIG_IGN, stop]


def test_a_handler_that_returns_still_exits() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with pytest.raises(SystemExit) as ended, delayed_interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
