"""Snapshots are few and in order, and a damaged one does not make a report fail."""

from gpt2.report.snapshots import KEPT, Snapshot, item_key, previous, results_digest, save


def snapshot(second: int, results: str) -> Snapshot:
    return Snapshot(
        time=f"2030-01-01T00:{second // 60:02}:{second % 60:02}.000+00:00",
        commit="abc",
        dirty=True,
        results=results * 64,
        params={"finetune.lr": 0.1, "tokenizer.kind": None},
        metrics={"pretrain.val_loss": 3.0},
        judge=None,
        scores={"chrf": {"item": 1.5, "other": None}},
    )


def test_the_previous_run_is_the_newest_with_other_results(tmp_path):
    assert previous(tmp_path, "a" * 64) is None
    for second, results in enumerate("aba"):
        save(tmp_path, snapshot(second, results))
    assert previous(tmp_path, "a" * 64) == snapshot(1, "b")
    assert previous(tmp_path, "b" * 64) == snapshot(2, "a")
    assert previous(tmp_path, "c" * 64) == snapshot(2, "a")


def test_the_same_results_replace_the_newest_snapshot(tmp_path):
    for second, results in enumerate("abbb"):
        save(tmp_path, snapshot(second, results))
    assert len(list(tmp_path.iterdir())) == 2
    assert previous(tmp_path, "a" * 64) == snapshot(3, "b")


def test_only_the_newest_are_kept(tmp_path):
    for second in range(KEPT + 5):
        save(tmp_path, snapshot(second, "ab"[second % 2]))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == KEPT
    assert names[0].startswith("2030-01-01T000005")


def test_a_damaged_snapshot_is_skipped(tmp_path, caplog):
    save(tmp_path, snapshot(0, "a"))
    (tmp_path / "2031.json").write_text('{"time": "2031"}')
    (tmp_path / "2032.json").write_text('{"ti')
    assert previous(tmp_path, "b" * 64) == snapshot(0, "a")
    assert caplog.text.count("skipped") == 2


def test_digests_depend_on_all_parts_and_not_on_the_order_of_keys():
    digest = results_digest({"a": 1, "b": 2}, None, {})
    assert digest == results_digest({"b": 2, "a": 1}, None, {})
    assert len({digest, results_digest({}, None, {}), results_digest({}, {"a": 1}, {})}) == 3
    assert item_key("a", "bc") != item_key("ab", "c")
