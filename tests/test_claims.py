"""The ledger: its numbers come from the records, its verdicts from its rules, and its pages are not stale."""

import json
import re
from pathlib import Path

import check_book
import numpy as np
import pytest
import write_pages
import yaml

from posebook import claims, results

BOOK = Path(__file__).resolve().parents[1] / "book"
LEDGER = (BOOK / "claims.toml").read_text(encoding="utf-8")


# --- the committed ledger


def test_the_records_are_there_and_are_what_the_ledger_says_of_them():
    assert claims.problems() == []


def test_no_computed_page_is_stale():
    assert write_pages.main(["--check"]) == 0
    assert {page.name for page in write_pages.pages()} >= {"appendix-ledger.md"}


POOLED = {"B4", "B5"}                                  # the chapter shows the three plans apart
NOT_IN_THE_CHAPTER = {"R2", "R3", "P7"}                # shown there by seed, or with other digits


def test_the_chapters_show_the_numbers_of_the_ledger():
    for claim in claims.read_ledger():
        cells = json.loads((BOOK / f"{claim.text['chapter']}.ipynb").read_text())["cells"]
        shown = json.dumps([cell["outputs"] for cell in cells if cell["cell_type"] == "code"])
        for finding in claim.findings:
            if claim.text["id"] not in POOLED | NOT_IN_THE_CHAPTER and "p below" not in finding.label:
                assert finding.span(finding.ours) in shown, (claim.text["id"], finding.label)
                assert finding.span(finding.base) in shown, (claim.text["id"], finding.label)


def test_every_claim_is_complete_and_named_once():
    ledger = claims.read_ledger()
    names = [claim.text["id"] for claim in ledger]
    assert len(set(names)) == len(names) > 30
    for claim in ledger:
        assert (BOOK / f"{claim.text['chapter']}.ipynb").is_file()
        assert claim.text["of"] in write_pages.GROUPS and (claim.text["of"] == "book" or claim.text["where"])
        assert claim.verdict in ("reproduced", "not reproduced", "holds", "does not hold", "mixed", "nothing shown",
                                 "too few runs")
        for name in claim.run_names:
            assert claim.command(name).startswith("python -m posebook ")


# --- what the check finds


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ('tasks-people-both = { like = "compare-2d", seeds = 5', 'tasks-people-both = { like = "compare-2d", seeds = 6',
     "there is no record tasks-people-both-5.json"),
    ('"config/epochs" = 20\n"config/epoch_size"', '"config/epochs" = 21\n"config/epoch_size"',
     "config/epochs is 20, the ledger says 21"),
    ('"config/weights" = { joints = 0.1 }', '"config/weights" = { joints = 1.0 }',
     "three-d-joint-0: config/weights is {'joints': 0.1}, the ledger says {'joints': 1.0}"),
    ('run = "three-d-joint-{seed}"', 'run = "three-d-joint-0"',
     "explain-joint-1: run is 'three-d-joint-1', the ledger says 'three-d-joint-0'"),
    ('seeds = 4, sweep = "regression", dataset = "people"', 'seeds = 4, sweep = "regression", dataset = "lspet"',
     "regression-people-0: dataset is 'people', the ledger says 'lspet'"),
    ('seeds = 4, sweep = "regression"', 'seeds = 4, sweep = "realism"',
     "regression-people with seeds 0 to 3 is not listed in sweeps/realism.toml"),
    ('images = 1000', 'imagess = 1000', "record explain-regression-0 has no imagess"),
    ('base = "three-d-other"', 'base = "three-d-another"',
     "claim L6 is about three-d-another, which the ledger does not list"),
])
def test_a_ledger_that_does_not_fit_the_records_is_reported(tmp_path, old, new, complaint):
    changed = tmp_path / "claims.toml"
    changed.write_text(LEDGER.replace(old, new), encoding="utf-8")
    found = claims.problems(changed)
    assert LEDGER.count(old) and any(complaint in line for line in found), found


def test_a_changed_verdict_or_number_makes_the_page_stale():
    page = (BOOK / "appendix-ledger.md").read_text(encoding="utf-8")
    assert write_pages.written(page) == page
    for old, new in (("**Mixed** (chapter [4]", "**Reproduced** (chapter [4]"), ("0.283 (0.276", "0.284 (0.276"),
                     ("regularising | **not reproduced**", "regularising | **reproduced**")):
        assert old in page
        assert write_pages.written(page.replace(old, new, 1)) == page
    by_hand = page.replace("How to read it", "Written by hand")
    assert write_pages.written(by_hand) == by_hand
    with pytest.raises(ValueError, match="no computed part 'other'"):
        write_pages.written("<!-- computed: other -->\n<!-- end of other -->")


# --- the rules


def table(value, images):
    return {"table": {"pck@0.2_torso": value, "pck_per_image": list(images)}}


def five(low, high, shift):
    images = np.random.default_rng(0).uniform(0.2, 0.8, 200)
    return [table(value, images + shift) for value in np.linspace(low, high, 5)]


@pytest.mark.parametrize(("ours", "base", "wanted", "outcome"), [
    (five(0.5, 0.6, 0.1), five(0.3, 0.4, 0), "better", "yes"),
    (five(0.3, 0.4, -0.1), five(0.5, 0.6, 0), "better", "no"),
    (five(0.3, 0.5, 0.1), five(0.4, 0.6, 0), "better", "nothing"),
    (five(0.5, 0.6, 0.1), five(0.3, 0.4, 0), "equal", "no"),
    (five(0.3, 0.4, -0.1), five(0.5, 0.6, 0), "equal", "no"),
    (five(0.3, 0.5, 0.1), five(0.4, 0.6, 0), "equal", "nothing"),
    (five(0.5, 0.6, 0.1)[:4], five(0.3, 0.4, 0), "better", "few"),
])
def test_the_books_rule(ours, base, wanted, outcome):
    values, _, images, found = claims.RULES["compare"]({"at": "table", "wanted": wanted}, ours, base)
    assert found == outcome and values == [r["table"]["pck@0.2_torso"] for r in ours]
    assert images == results.compare([r["table"] for r in ours], [r["table"] for r in base])["images"]


def rows(*values, floor=0.0):
    return [{"name": "a", "x": value, "floor": floor} for value in values]


@pytest.mark.parametrize(("test", "ours", "base", "outcome"), [
    ({}, (3, 4, 5, 6, 7), (0, 1, 2, 2, 2), "yes"),
    ({}, (0, 1, 2, 2, 2), (3, 4, 5, 6, 7), "no"),
    ({"wanted": "lower"}, (0, 1, 2, 2, 2), (3, 4, 5, 6, 7), "yes"),
    ({}, (3, 4, 5, 6, 7), (0, 1, 2, 2, 3), "nothing"),                     # a tie is not beyond
    ({}, (3, 4, 5, 6), (0, 1, 2, 2, 2), "few"),
    ({}, (3, 4, 5, 6, 7), (0, 1, 2, 2), "few"),
    ({"fewest": 2}, (3, 4), (0, 1), "yes"),
    ({"both_signs": "no"}, (-1, 1, 2, 3, 4), (0, 0, 0, 0, 0), "no"),
    ({"both_signs": "no"}, (1, 1, 2, 3, 4), (0, 0, 0, 0, 2), "nothing"),
])
def test_every_run_beyond_every_other(test, ours, base, outcome):
    assert claims.RULES["seeds"]({"value": "x", **test}, rows(*ours), rows(*base))[3] == outcome


def test_a_floor_is_one_number_and_counts_for_all_runs():
    test = {"value": "x", "base_value": "floor"}
    _, floor, _, outcome = claims.RULES["seeds"](test, rows(1, 2, 3, 4, 5, floor=0.5), [])
    assert (floor, outcome) == ([0.5], "yes")
    assert claims.RULES["seeds"](test, rows(1, 2, 3, 4, 5, floor=1.5), [])[3] == "nothing"


@pytest.mark.parametrize(("wanted", "values", "outcome"), [
    ("above", (1, 2, 3, 4, 5), "yes"), ("above", (-1, -2, -3, -4, -5), "no"), ("above", (-1, 2, 3, 4, 5), "nothing"),
    ("below", (-1, -2, -3, -4, -5), "yes"), ("below", (1, 2, 3, 4, 5), "no"), ("not above", (0, 0, 0, 0, -1), "yes"),
    ("above", (1, 2), "few")])
def test_all_of_one_sign(wanted, values, outcome):
    assert claims.RULES["sign"]({"value": "x", "wanted": wanted}, rows(*values), [])[3] == outcome


def of_everybody(found):
    """A record of `posebook limits` that says `found` (strings of 0 and 1) of the people of validation."""
    return {"name": "a", "split": "validation", "network": {"found": found}, "upright": "10" * (len(found) // 2)}


@pytest.mark.parametrize(("share", "networks", "outcome"), [(0.2, 5, "yes"), (0.0, 5, "nothing"), (0.2, 4, "few")])
def test_a_trait_of_people_that_makes_a_difference_is_called(share, networks, outcome):
    dark = claims._groups_of_people("validation")[0]["skin", "dark"]
    rng = np.random.default_rng(1)
    records = [of_everybody(["".join("01"[int(x < (0.4 - share if is_dark else 0.4))] for x in rng.random(14))
                             for is_dark in dark]) for _ in range(networks)]
    values, base, interval, found = claims.RULES["groups"]({"traits": ["skin", "age"]}, records, [])
    assert (found, base, len(values)) == (outcome, [], networks)
    assert interval["low"] < np.mean(values) < interval["high"]
    if share:
        assert max(values) < -0.15                          # it is the dark ones who differ most, in every network


def test_the_pck_of_a_group():
    groups, _ = claims._groups_of_people("validation")
    record = of_everybody(["1" * 7 + "0" * 7 if down else "1" * 14 for down in groups["head", "down"]])
    assert claims.value_of(record, ["pck_of", "head", "down"]) == 0.5
    assert claims.value_of(record, ["pck_of", "head", "up"]) == 1
    alternate = of_everybody(["1" * 14, "0" * 14] * (len(groups["head", "up"]) // 2))
    assert claims.value_of(alternate, ["pck_of", "upright", "yes"]) == 1
    assert claims.value_of(alternate, ["pck_of", "upright", "no"]) == 0


@pytest.mark.parametrize(("outcomes", "paper", "book"), [
    ("yes yes", "reproduced", "holds"), ("yes nothing", "mixed", "mixed"), ("yes no", "mixed", "mixed"),
    ("no nothing", "not reproduced", "does not hold"), ("no", "not reproduced", "does not hold"),
    ("nothing nothing", "nothing shown", "nothing shown"), ("few few", "too few runs", "too few runs"),
    ("yes few", "reproduced", "holds"), ("nothing few", "nothing shown", "nothing shown")])
def test_one_word_for_several_tests(outcomes, paper, book):
    assert claims.verdict(outcomes.split(), True) == paper
    assert claims.verdict(outcomes.split(), False) == book


def test_values_are_found_or_missed_by_name():
    record = {"name": "run-0", "a": {"b": [1, {"c": 2}]}}
    assert claims.value_of(record, "a/b/-1/c") == 2
    for where in ("a/d", "a/b/7", "a/b/x", "a/b/0/c"):
        with pytest.raises(KeyError, match=f"run-0 has no {where}"):
            claims.value_of(record, where)


def test_an_unknown_rule_is_named():
    claim = claims.Claim({"id": "Z", "of": "book", "rule": "hope", "tests": [{"label": "a", "ours": "b"}]}, {})
    with pytest.raises(ValueError, match="claim Z: there is no rule 'hope'; there are compare, seeds, sign, groups"):
        _ = claim.findings


def test_the_landing_page_leads_to_every_page():
    toc = yaml.safe_load((BOOK.parent / "_toc.yml").read_text(encoding="utf-8"))
    landing = (BOOK / "index.md").read_text(encoding="utf-8")
    missing = [name for name in check_book.documents(toc)[1:] if f"]({Path(name).name})" not in landing]
    assert not missing, f"index.md has no link to {', '.join(missing)}"


def test_the_glossary_is_in_order_and_names_each_term_once():
    text = (BOOK / "glossary.md").read_text(encoding="utf-8").partition("```{glossary}\n")[2]
    blocks = [block for block in text.rstrip("`\n").split("\n\n") if block]
    heads = [[line for line in block.splitlines() if not line.startswith(" ")] for block in blocks]
    terms = [term for head in heads for term in head]
    assert len(terms) == len(set(terms)) > 60
    first = [head[0].lower().replace("3d", "threed") for head in heads]
    assert first == sorted(first)
    for term in re.findall(r"{term}`(?:[^`<]*<)?([^`>]+)>?`", " ".join(text.split())):
        assert term in terms, f"the glossary leads to {term}, which it does not have"
