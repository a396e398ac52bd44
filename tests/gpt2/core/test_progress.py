import logging

from gpt2.core import progress


def test_without_a_terminal_it_logs_lines(caplog, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    with caplog.at_level(logging.INFO):
        bar = progress.Progress("pretrain", 10, "step", start=4)
        bar.advance("loss 3.2")
        bar.note("step 5: val_loss 4.0")
        bar.close()
    assert "pretrain: 5 of 10 steps" in caplog.text
    assert "s left; loss 3.2" in caplog.text
    assert "pretrain: step 5: val_loss 4.0" in caplog.text
