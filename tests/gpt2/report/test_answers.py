"""Which answers the report shows."""

from gpt2.evaluation.judge.tasks import Response
from gpt2.evaluation.text_metrics import sentence_chrf
from gpt2.report.answers import extremes, item_scores, key_of, length_panels, samples
from gpt2.report.inputs import Judgement
from tests.gpt2.report import small_run

RESPONSES = [Response.model_validate(row) for row in small_run.responses()]
JUDGEMENTS = [Judgement.model_validate(row) for row in small_run.judgements()]


def test_samples_are_spread_over_each_kind():
    chosen = samples(RESPONSES)
    assert {kind: [r.id for r in own] for kind, own in chosen.items()} == {
        "describe": [0, 12, 26],
        "name": [1, 13, 27],
    }
    assert samples(RESPONSES[:1]) == {"describe": RESPONSES[:1]}


def test_scores_are_those_of_the_finetuned_model_by_item():
    scores = item_scores(RESPONSES, JUDGEMENTS)
    assert list(scores["judge"]) == [key_of(response) for response in RESPONSES[:20]]
    assert scores["judge"][key_of(RESPONSES[3])] == (3 * 17 + len("finetuned")) % 80
    (chrf,) = sentence_chrf([RESPONSES[3].reference], [RESPONSES[3].finetuned])
    assert scores["chrf"][key_of(RESPONSES[3])] == round(chrf, 2)
    assert len(scores["chrf"]) == 40
    assert item_scores([], []) == {}


def test_worst_and_best_are_extreme_in_their_kind_and_kinds_take_turns():
    scores = item_scores(RESPONSES, JUDGEMENTS)["judge"]
    worst, best = extremes(RESPONSES, scores)
    for found, choose in ((worst, min), (best, max)):
        assert len(found) == 4
        assert {extreme.response.kind for extreme in found[:2]} == {"describe", "name"}
        assert {extreme.response.kind for extreme in found[2:]} == {"describe", "name"}
        of_kind = [scores[key_of(r)] for r in RESPONSES[:20] if r.kind == found[0].response.kind]
        assert found[0].score == choose(of_kind)
    shown = [extreme.response.id for extreme in worst + best]
    assert len(set(shown)) == 8
    assert extremes(RESPONSES, {}) == ([], [])


def test_lengths_count_every_answer():
    panels = length_panels(RESPONSES)
    assert [panel.name for panel in panels] == ["finetuned", "base", "reference"]
    assert panels[1].note.endswith("5 empty")
    assert length_panels([]) == []
    empty = [RESPONSES[0].model_copy(update={"finetuned": "", "base": "", "reference": ""})]
    assert all(panel.note == "mean 0.0; 1 empty" for panel in length_panels(empty))
