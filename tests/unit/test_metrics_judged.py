"""MMHal's ratings as released, claims one by one, and judges that say nonsense."""

import math

import pytest

from sightline.data.judgements import Judgements
from sightline.errors import DataError
from sightline.metrics import claims, mmhal
from sightline.metrics.judging import ask

RATINGS = [
    # review, released, vti, strict
    ("It is right.\nRating: 5", 5, 5, 5),
    ("rating: 0, not informative", 0, 0, 0),
    ("RATING: 6", 6, 6, 6),
    ("**Rating**: 4", None, 4, 4),
    ("**Rating: 4**", 4, 4, 4),
    ("Rating : 3", None, None, 3),
    ("Rating: [2]", None, None, 2),
    ("Rating:2", None, None, 2),
    ("Rating: 10", 1, 1, None),
    ("Rating: 7", None, None, None),
    ("Rating: 3. Were it longer, Rating: 5", None, None, None),
    ("Rating: 3 ... so, Rating: 3", 3, 3, 3),
    ("I would give it four.", None, None, None),
    ("", None, None, None),
]


@pytest.mark.golden
@pytest.mark.parametrize(("review", "released", "vti", "strict"), RATINGS)
def test_ratings(review, released, vti, strict):
    assert mmhal.rating(review, "released") == released
    assert mmhal.rating(review, "vti") == vti
    assert mmhal.rating(review, "strict") == strict


def test_mmhal_counts_by_hand():
    reviews = ["Rating: 6", "Rating: 3", "Rating: 2", "no idea"]
    released = {name: r.value for name, r in mmhal.tally(reviews).items()}
    assert released == pytest.approx({"score": 11 / 4, "hallucination_rate": 2 / 4, "unparsed_rate": 1 / 4})
    strict = {name: r.value for name, r in mmhal.tally(reviews, rule="strict").items()}
    assert strict == pytest.approx({"score": 11 / 3, "hallucination_rate": 1 / 3, "unparsed_rate": 1 / 4})
    by_type = mmhal.tally_by_type(reviews, ["a", "b", "a", "b"])
    assert by_type["a"]["score"].value == 4
    assert by_type["b"]["unparsed_rate"].value == 0.5
    assert all(math.isnan(r.value) for r in mmhal.tally([]).values())
    with pytest.raises(DataError, match="reviews"):
        mmhal.tally_by_type(reviews, ["a"])


def test_the_published_prompt_comes_from_their_script():
    script = "import x\ntemplate = '''Contents {} {} {} {}'''\nprint(template)\n"
    template = mmhal.template_of(script)
    assert mmhal.prompt(["Cat", "Dog"], "q?", "t", "a", template=template) == "Contents Cat, Dog q? t a"
    assert "Image contents: Cat\nQuestion: q?" in mmhal.prompt(["Cat"], "q?", "t", "a")
    for wrong in ("template = 'two {} {}'", "x = 1", "not python at all ("):
        with pytest.raises(DataError):
            mmhal.template_of(wrong)


def test_a_judge_is_asked_once_and_may_say_nonsense():
    asked = []

    def judge(prompt):
        asked.append(prompt)
        return {"a": "Rating: 5", "b": None, "c": 7}[prompt]

    cache = {}
    assert ask(["a", "a", "b", "c"], judge, name="j", cache=cache) == ["Rating: 5", "Rating: 5", "", ""]
    assert ask(["c", "a"], judge, name="j", cache=cache) == ["", "Rating: 5"]
    assert asked == ["a", "b", "c"]
    ask(["a"], judge, name="another judge", cache=cache)
    assert len(asked) == 4


def test_judgements_outlive_the_process_and_a_crash(tmp_path):
    path = tmp_path / "judge" / "said.jsonl"
    assert ask(["a"], lambda _: "Rating: 5", name="j", cache=Judgements(path)) == ["Rating: 5"]
    with path.open("a") as out:
        out.write('{"key": "cut o')
    kept = Judgements(path)
    assert len(kept) == len(list(kept)) == 1
    assert ask(["a"], pytest.fail, name="j", cache=kept) == ["Rating: 5"]
    ask(["b"], lambda _: "x", name="j", cache=kept)
    assert len(Judgements(path)) == 2
    path.write_text("no json\n{}\n")
    with pytest.raises(DataError, match="row 1"):
        Judgements(path)


def test_claims_are_sentences():
    assert claims.split("A dog. It is 3.5 feet tall! Where?\n\n ... ") == (
        "A dog.",
        "It is 3.5 feet tall!",
        "Where?",
    )
    assert claims.split(" ... ") == ()
    assert [claims.read(r) for r in ("Yes.", "**no**, it is there", "Perhaps", "")] == [
        True,
        False,
        None,
        None,
    ]


def test_claims_by_hand():
    replies = {"cat": "Yes, invented.", "dog": "No.", "bird": "Lorem ipsum"}

    def judge(prompt):
        claim = prompt.split("Claim: ")[1]
        return next(reply for word, reply in replies.items() if word in claim)

    judged = claims.judge_claims(
        ["A dog. A cat.", "A dog. A bird.", "A bird.", ""], [["A dog."]] * 4, judge, name="by hand"
    )
    values = {name: r.value for name, r in claims.tally(judged).items()}
    assert values == pytest.approx(
        {
            "hallucination_rate": 1 / 2,  # of the two responses with a readable reply
            "claim_error_rate": 1 / 3,
            "unparsed_rate": 2 / 5,
            "claims": 5 / 4,
            "empty_rate": 1 / 4,
        }
    )
    assert all(math.isnan(r.value) for r in claims.tally([]).values())
    with pytest.raises(DataError, match="responses"):
        claims.judge_claims(["a"], [], judge, name="by hand")
