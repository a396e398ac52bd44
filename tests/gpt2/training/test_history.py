from gpt2.training.history import History


def test_speed_is_that_of_the_whole_run():
    history = History(tokens=1000, flops=5e9, seconds=2.04, product_rate=1e10, peak_memory_mib=7.25)
    assert history.speed == {
        "train_seconds": 2.0,
        "tokens_per_second": 490.2,
        "mfu": 0.245,
        "peak_memory_mib": 7.2,
    }
    assert history.tokens_per_second == 1000 / 2.04


def test_the_best_evaluation_is_the_earlier_one_if_two_are_equal():
    losses = [3.0, 1.0, 1.0, 2.0]
    history = History(evaluations=[{"step": i, "val_loss": loss} for i, loss in enumerate(losses)])
    assert history.best["step"] == 1
