"""Metrics compared with worked examples and rouge_score, and the trivial baseline."""

import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from gpt2.evaluation import text_metrics


def test_chrf_of_a_pair_worked_out_by_hand():
    # "abc" / "abd": 2 of 3 characters, 1 of 2 pairs, 0 of 1 triple, on both sides.
    expected = 100 * (2 / 3 + 1 / 2 + 0) / 3
    assert text_metrics.chrf(["abc"], ["abd"]) == pytest.approx(expected)
    assert text_metrics.sentence_chrf(["abc", "xyz"], ["abd", "xyz"]) == pytest.approx(
        [expected, 100]
    )


def test_rouge_l_of_a_pair_worked_out_by_hand():
    # The longest common subsequence is "the cat on mat": precision 4/4, recall 4/6.
    score = text_metrics.rouge_l(["The cat sat on the mat."], ["the cat on mat"])
    assert score == pytest.approx(100 * 2 * (1 * 4 / 6) / (1 + 4 / 6))


ASCII = st.text(
    st.sampled_from(string.printable + "  the cat sat  " + "ABC def 12" * 3), max_size=60
)


@settings(max_examples=500, deadline=None)
@given(reference=ASCII.filter(lambda text: any(map(str.isalnum, text))), hypothesis=ASCII)
def test_rouge_l_of_english_is_rouge_scores(reference, hypothesis):
    peer = RougeScorer(["rougeL"]).score(reference, hypothesis)["rougeL"].fmeasure
    assert text_metrics.rouge_l([reference], [hypothesis]) == 100 * peer


IN_ALL_SCRIPTS = {
    "Russian": ("Кошка сидела на коврике", "кошка лежала на коврике", 75),
    "Greek": ("Η γάτα κάθισε ΟΔΟΣ", "η γάτα πήγε οδος", 75),
    "Arabic": ("جلست القطة على السجادة", "نامت القطة على السجادة", 75),
    "Hebrew with marks": ("שָׁלוֹם עוֹלָם", "שָׁלוֹם לָךְ", 50),
    "Hindi": ("बिल्ली चटाई पर बैठी", "बिल्ली चटाई पर सोई", 75),
    "Tamil": ("பூனை பாயில் அமர்ந்தது", "பூனை பாயில் தூங்கியது", 200 / 3),
    "Persian with joiners": ("می\u200cخواهم بروم", "می\u200cروم بروم", 50),
    "Korean": ("고양이가 매트 위에 앉았다", "고양이가 매트 위에 누웠다", 75),
    "Armenian": ("Կատուն նստեց", "կատուն քնեց", 50),
    "Ethiopic": ("ድመቷ ተቀመጠች", "ድመቷ ተኛች", 50),
    "Vietnamese": ("con mèo ngồi trên thảm", "con mèo nằm trên thảm", 80),
    "Chinese": ("猫坐在垫子上。", "猫躺在垫子上", 250 / 3),
    "rare Chinese": ("𠀀𠀁𠀂〇", "𠀀𠀃𠀂〇", 75),
    "Japanese": ("ネコがすわる", "ねこがすわる", 200 / 3),
    "Japanese, long vowels": ("コーヒー", "コーラー", 75),
    "Thai": ("แมวนั่ง", "แมวนอน", 600 / 11),
    "Lao": ("ແມວນັ່ງ", "ແມວນອນ", 600 / 11),
    "Khmer": ("ឆ្មាអង្គុយ", "ឆ្មាដេក", 200 / 7),
    "Burmese": ("ကြောင်ထိုင်", "ကြောင်အိပ်", 50),
    "mixed": ("GPT2模型 is 好", "gpt2模型 was 好", 80),
    "code without letters": ("{ } ; =>", "{ } ; ->", 80),
    "emoji": ("🎉🎉👩‍👩‍👧", "🎉👩‍👩‍👧", 80),
}


@pytest.mark.parametrize(
    ("reference", "hypothesis", "score"), IN_ALL_SCRIPTS.values(), ids=IN_ALL_SCRIPTS
)
def test_rouge_l_in_all_scripts(reference, hypothesis, score):
    assert text_metrics.rouge_l([reference], [reference]) == 100
    assert text_metrics.rouge_l([reference], [hypothesis]) == pytest.approx(score)
    assert text_metrics.rouge_l([reference], ["another answer"]) == 0


@pytest.mark.parametrize(("reference", "hypothesis", "_"), IN_ALL_SCRIPTS.values())
def test_the_encoding_of_a_character_changes_no_metric(reference, hypothesis, _):
    apart, together = (unicodedata.normalize(form, reference) for form in ("NFD", "NFC"))
    assert text_metrics.score([apart], [together]) == pytest.approx(
        {"chrf": 100, "rouge_l": 100, "exact_match": 100}
    )
    assert text_metrics.score([apart], [hypothesis]) == text_metrics.score([together], [hypothesis])
    assert text_metrics.sentence_chrf([apart], [together]) == pytest.approx([100])
    answers = [apart, together, "x", "x", together]
    assert text_metrics.most_frequent(answers) == together


def test_punctuation_counts_if_the_reference_has_no_word():
    assert text_metrics.rouge_l(["The cat."], ["The cat!!!"]) == 100
    assert text_metrics.rouge_l(["The cat."], ["."]) == 0
    assert text_metrics.rouge_l(["+ _ -"], ["+ _ a"]) == pytest.approx(200 / 3)
    for nothing in ("", " \n\t\u3000"):
        assert text_metrics.rouge_l([nothing], ["a"]) == text_metrics.rouge_l(["a"], [nothing]) == 0


def test_short_texts_of_one_character_have_a_chrf():
    for text in ("水", "é", "+", "🙂"):
        assert text_metrics.chrf([text], [text]) == pytest.approx(100)


def test_exact_match_ignores_outer_space_only():
    references = ["numpy", "numpy", "numpy", "two words"]
    hypotheses = [" numpy\n", "Numpy", "", "two  words"]
    assert text_metrics.exact_match(references, hypotheses) == 25


def test_extremes_of_all_metrics():
    texts = ["Return the rank of a matrix.", "Sort an array in place."]
    assert text_metrics.score(texts, texts) == pytest.approx(
        {"chrf": 100, "rouge_l": 100, "exact_match": 100}
    )
    assert text_metrics.score(texts, ["", ""]) == {"chrf": 0, "rouge_l": 0, "exact_match": 0}


@pytest.mark.parametrize("pair", [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_pairs_are_required(pair):
    for metric in (text_metrics.chrf, text_metrics.sentence_chrf, text_metrics.rouge_l):
        with pytest.raises(ValueError, match="expected equal numbers"):
            metric(*pair)
    with pytest.raises(ValueError, match="expected equal numbers"):
        text_metrics.score(*pair)


def test_most_frequent_answer_and_ties():
    assert text_metrics.most_frequent(["b", "a", "b"]) == "b"
    assert text_metrics.most_frequent(["b", "a"]) == "a"
    with pytest.raises(ValueError, match="empty"):
        text_metrics.most_frequent([])
