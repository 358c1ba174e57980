"""The ledger: what the papers and this book claim, put to the records.

`book/claims.toml` says in words what is claimed, names the records that bear on it and what those records must say of
themselves. Every number and every verdict is computed from the records here; none is typed. `tools/write_pages.py`
writes the page. (For a checkout of the repository: an installed package has the records, but not the ledger.)
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from posebook import limits, results, sweep
from posebook.files import reading

OUTCOMES = {"yes": "yes", "no": "**no**", "nothing": "not shown", "few": "too few runs"}
"""What one test may come to, and how the page says it. "no": the contrary is shown, or a claim cannot be kept up."""


@dataclass(frozen=True)
class Finding:
    """What the records say to one test of a claim.

    Attributes:
        label: what was compared; ours, base: one value for each run (base empty: the values are judged by themselves).
        difference: mean over images of ours - base with its 95 % interval, {} where there is none.
        outcome: a key of `OUTCOMES`. digits, unit: how to print the values.
    """

    label: str
    ours: list[float]
    base: list[float]
    difference: dict[str, float]
    outcome: str
    digits: int
    unit: str

    @property
    def mean(self) -> float:
        """Over our runs."""
        return float(np.mean(self.ours))

    @property
    def base_mean(self) -> float:
        """Over the runs, or of the floor, that ours are compared with."""
        return float(np.mean(self.base))

    def span(self, values: list[float]) -> str:
        """Mean and, of several runs, the lowest and the highest."""
        if not values:
            return ""
        text = f"{np.mean(values):.{self.digits}f}"
        return text if len(values) == 1 else f"{text} ({min(values):.{self.digits}f} to {max(values):.{self.digits}f})"

    @property
    def interval(self) -> str:
        """The difference with its interval; empty where there is none."""
        d, k = self.difference, self.digits
        return f"{d['mean']:+.{k}f} ({d['low']:+.{k}f} to {d['high']:+.{k}f})" if d else ""


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger: its text from the TOML file, and how the records of its tests are read."""

    text: dict
    runs: dict[str, dict]

    @cached_property
    def findings(self) -> list[Finding]:
        """What each of the claim's tests says."""
        return [self._find({**self.text.get("every", {}), **test}) for test in self.text["tests"]]

    @property
    def verdict(self) -> str:
        """One word for all its tests together, see the function `verdict`."""
        return verdict([finding.outcome for finding in self.findings], self.text["of"] != "book")

    @property
    def run_names(self) -> list[str]:
        """The families of records that this claim reads, each once."""
        tests = [{**self.text.get("every", {}), **test} for test in self.text["tests"]]
        names = [name for test in tests for key in ("ours", "base") for name in _listed(test.get(key, []))]
        return list(dict.fromkeys(names))

    def command(self, name: str) -> str:
        """What makes this family of records; folders of the reader's own are written in capitals."""
        return command(name, self.runs[name])

    def _find(self, test: dict) -> Finding:
        rule = test.get("rule", self.text.get("rule"))
        if rule not in RULES:
            raise ValueError(f"claim {self.text['id']}: there is no rule {rule!r}; there are {', '.join(RULES)}")
        records = {side: [record for name in _listed(test[side]) for record in records_of(name, self.runs[name])]
                   for side in ("ours", "base") if side in test}
        ours, base, difference, outcome = RULES[rule](test, records["ours"], records.get("base", []))
        return Finding(test["label"], ours, base, difference, outcome, test.get("digits", 3), test.get("unit", ""))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# --- rules


def _by_compare(test: dict, ours: list[dict], base: list[dict]) -> tuple:
    """The book's rule, `results.compare`: every seed and the interval over images. `at`, `base_at`: where in a record
    the table of scores is. `wanted`: "better" (as a rule) or "equal", which can only fail, never be shown."""
    base = base or ours
    measure = test.get("measure", "pck")
    at = test["at"]
    tables = [value_of(record, at) for record in ours]
    others = [value_of(record, test.get("base_at", at)) for record in base]
    found = results.compare(tables, others, measure=measure)
    total = results.MEASURES[measure][0]
    meaning = {"better": {"better": "yes", "worse": "no"},
               "equal": {"better": "no", "worse": "no"}}[test.get("wanted", "better")]
    outcome = "few" if found["verdict"] is None else meaning.get(found["verdict"], "nothing")
    return [t[total] for t in tables], [t[total] for t in others], found["images"], outcome


def _by_seeds(test: dict, ours: list[dict], base: list[dict]) -> tuple:
    """Every run of ours beyond every run of the base (or beyond a floor, a value in the same records: `base_value`).
    `wanted`: "higher" or "lower". `fewest`: runs needed on each side. `both_signs`: the outcome if the rule is met
    neither way and our runs lie on both sides of zero."""
    values = [float(value_of(record, test["value"])) for record in ours]
    others = [float(value_of(record, test.get("base_value", test["value"]))) for record in base or ours]
    if len(set(others)) == 1:
        others = others[:1]                                         # one floor for all
    sign = {"higher": 1, "lower": -1}[test.get("wanted", "higher")]
    a, b = sign * np.array(values), sign * np.array(others)
    outcome = "yes" if a.min() > b.max() else "no" if a.max() < b.min() else "nothing"
    if outcome == "nothing" and min(values) < 0 < max(values):
        outcome = test.get("both_signs", "nothing")
    fewest = test.get("fewest", results.FEWEST_SEEDS)
    enough = len(values) >= fewest and (len(base) >= fewest or not base)
    return values, others, {}, outcome if enough else "few"


def _by_sign(test: dict, ours: list[dict], base: list[dict]) -> tuple:
    """All values beyond a `limit` (0): `wanted` is "above", "below" or "not above". All of them on the other side is a
    no."""
    values = [float(value_of(record, test["value"])) for record in ours]
    above = np.array(values) > test.get("limit", 0)
    wanted = test["wanted"]
    meets, fails = (above.all(), not above.any()) if wanted == "above" else (not above.any(), above.all())
    outcome = "yes" if meets else "no" if fails else "nothing"
    return values, [], {}, outcome if len(values) >= test.get("fewest", results.FEWEST_SEEDS) else "few"


def _by_groups(test: dict, ours: list[dict], base: list[dict]) -> tuple:
    """Whether traits of people make a difference: every group of `traits` against the rest, judged as in chapter 11
    (`limits.judge`, with these groups as the family). "yes" if a group is called worse or better. The values are of the
    group that differs most: for each network its mean less that of the rest."""
    split = ours[0]["split"]
    members, subjects = _groups_of_people(split)
    keys = [key for key in members if key[0] in test["traits"]]
    asked = np.array([members[key] for key in keys]).T
    each = np.array([limits.pck(_found(record)) for record in ours])
    found = limits.against_rest(each.mean(axis=0), asked, subjects)
    by_seed = np.array([limits.against_rest(one, asked, subjects, repeats=2)["difference"] for one in each])
    called = set(limits.judge(found, by_seed)) & {"worse", "better"}
    most = int(np.nanargmax(np.abs(found["difference"])))
    interval = {"mean": found["difference"][most], "low": found["low"][most], "high": found["high"][most]}
    enough = len(ours) >= test.get("fewest", results.FEWEST_SEEDS)
    return by_seed[:, most].tolist(), [], interval, "few" if not enough else "yes" if called else "nothing"


def _found(record: dict, who: str = "network") -> np.ndarray:
    """(N, J) what a record of `posebook limits` says of every joint."""
    return limits.read_found(record[who]["found"])


@lru_cache(maxsize=4)
def _groups_of_people(split: str) -> tuple[dict, np.ndarray]:
    """Groups of a split of people as chapter 11 makes them, cut where the training set's thirds meet, and subjects."""
    cuts = limits.cut_points(limits.known_from_files("train")[0])
    known, subjects = limits.known_from_files(split)
    return limits.group(known, cuts), subjects


def _pck_of(record: dict, trait: str, word: str) -> float:
    """PCK of a group: of people by trait (`limits.group`), or, on any data set, "upright", "yes" or "no"."""
    if trait == "upright":
        chosen = np.array([mark == "1" for mark in record["upright"]]) == (word == "yes")
    else:
        chosen = _groups_of_people(record["split"])[0][trait, word]
    return float(np.nanmean(limits.pck(_found(record))[chosen]))


def _gain_of(record: dict, base: str, trait: str, word: str) -> float:
    """How much higher a group's PCK is in this record than in that of the same seed in the family `base`."""
    other = _read(results.results_folder() / f"{base}-{record['seed']}.json")
    return _pck_of(record, trait, word) - _pck_of(other, trait, word)


RULES: dict[str, Callable[[dict, list[dict], list[dict]], tuple]] = {
    "compare": _by_compare, "seeds": _by_seeds, "sign": _by_sign, "groups": _by_groups}


def verdict(outcomes: list[str], of_a_paper: bool) -> str:
    """One word for several tests. A test with too few runs has no say unless there is no other."""
    said = set(outcomes) - {"few"}
    if not said:
        return "too few runs"
    if said == {"nothing"}:
        return "nothing shown"
    if said == {"yes"}:
        return "reproduced" if of_a_paper else "holds"
    if "yes" in said:
        return "mixed"
    return "not reproduced" if of_a_paper else "does not hold"


# --- values in records

VALUES: dict[str, Callable[..., float]] = {
    "training_loss": lambda r: results.losses_over_mean_pose(r)[0],
    "gap": lambda r: results.losses_over_mean_pose(r)[1] - results.losses_over_mean_pose(r)[0],
    "epochs_to_nine_tenths": lambda r, base: results.epochs_to(r, 0.9 * np.mean(
        [b["history"][-1]["validation_pck"] for b in records_of(base, {"seeds": results.FEWEST_SEEDS})])),
    "typical_map": lambda r, *more: float(np.nanmedian(results.above_shuffled(r, *more))),
    "best_map": lambda r, *more: float(np.nanmax(results.above_shuffled(r, *more))),
    "correlation": results.joint_correlation,
    "same_side": lambda r, axis: float(np.mean([results.joint_correlation(r, f"{side}_hip", f"{side}_shoulder", axis)
                                                for side in ("left", "right")])),
    "largest_p": lambda r: max(found["p"] for found in r["weights"]["trained"]["mantel"].values()),
    "sparsity": results.sparsity_contrast,
    "mean_correlation": results.mean_correlation,
    "pck_of": _pck_of,
    "gain_of": _gain_of,
}
"""Numbers that have to be worked out from a record, by name."""


def value_of(record: dict, where: str | list) -> Any:
    """A value of a record: by its path ("history/-1/spread"), or, from a list, worked out by a function of `VALUES`
    (["best_map", "conv3", "trained"]).

    Raises:
        KeyError: naming the record and the step that it lacks.
    """
    if isinstance(where, list):
        return VALUES[where[0]](record, *where[1:])
    return results.value_at(record, where)


@lru_cache(maxsize=300)
def _read(path: Path) -> dict:
    return results.read_record(path)


def records_of(name: str, run: dict) -> list[dict]:
    """The records of a family, one for each of its seeds 0, 1, ..."""
    return [_read(results.results_folder() / f"{name}-{seed}.json") for seed in range(run["seeds"])]


def command(name: str, run: dict) -> str:
    """The command that makes a family of records."""
    if "command" in run:
        return run["command"]
    text = (results.results_folder().parent / "sweeps" / f"{run['sweep']}.toml").read_text(encoding="utf-8")
    wanted = "".join(arguments for arguments in (" --set lspet=DIR" if "{lspet}" in text else "",
                                                 " --set sets=SETS" if "{sets}" in text else ""))
    return f"python -m posebook sweep book/sweeps/{run['sweep']}.toml{wanted}"


# --- the ledger


@lru_cache(maxsize=4)                                       # a claim keeps what it has computed
def read_ledger(path: Path | None = None) -> tuple[Claim, ...]:
    """All claims, in the order of `book/claims.toml`."""
    content = _toml(path)
    return tuple(Claim(text, content["runs"]) for text in content["claims"])


def read_rules(path: Path | None = None) -> dict[str, str]:
    """The rules in words, by name."""
    return _toml(path)["rules"]


def read_runs(path: Path | None = None) -> dict[str, dict]:
    """The families of records that the ledger reads, by name."""
    return _toml(path)["runs"]


def read_highlights(path: Path | None = None) -> list[str]:
    """The findings of the landing page as sentences, with their numbers filled in: "{A1[0].mean:.3f}" is the mean of
    the first test of claim A1."""
    content = _toml(path)
    found = {claim.text["id"]: claim.findings for claim in read_ledger(path)}
    return [sentence.format(**found) for sentence in content["highlights"]]


def _default() -> Path:
    return results.results_folder().parent / "claims.toml"


def _toml(path: Path | None) -> dict:
    path = path or _default()
    with reading(path, "restore it from the repository", "as a ledger"):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if missing := {"claims", "runs", "rules", "highlights"} - set(content):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        return content


def expectations(run: dict, settings: dict[str, dict]) -> dict:
    """What the records of a family must say: the shared settings that it names, and its own."""
    own = {key: value for key, value in run.items() if key not in ("seeds", "like", "sweep", "command")}
    return {**settings.get(run.get("like", ""), {}), **own}


def problems(path: Path | None = None) -> list[str]:
    """What is wrong with the ledger, in sentences: records that are missing or say another thing of themselves than the
    ledger says of them, runs that no sweep lists, claims about runs that are not listed.

    Raises:
        OSError: if the ledger is damaged.
    """
    with reading(path or _default(), "restore it from the repository", "as a ledger"):
        return _problems(path)


def _problems(path: Path | None) -> list[str]:
    content = _toml(path)
    runs, found = content["runs"], []
    sweeps = results.results_folder().parent / "sweeps"
    for name, run in runs.items():
        expected = expectations(run, content.get("settings", {}))
        if "sweep" in run:
            try:
                planned = sweep.read_sweep(sweeps / f"{run['sweep']}.toml", {"lspet": "DIR", "sets": "SETS"})
            except (FileNotFoundError, ValueError) as error:
                found.append(f"{name}: {error}")
                planned = []
            if {r.seed for r in planned if r.name == f"{name}-{r.seed}"} != set(range(run["seeds"])):
                found.append(f"{name} with seeds 0 to {run['seeds'] - 1} is not listed in sweeps/{run['sweep']}.toml")
        elif "command" not in run:
            found.append(f"{name} says neither which sweep nor which command makes it")
        for seed in range(run["seeds"]):
            try:
                record = _read(results.results_folder() / f"{name}-{seed}.json")
            except (FileNotFoundError, ValueError) as error:
                found.append(str(error).split(";")[0])
                continue
            own_seed = record["config"]["seed"] if "config" in record else record.get("seed")
            if (record.get("name"), own_seed) != (f"{name}-{seed}", seed):
                found.append(f"{name}-{seed}.json says that it is {record.get('name')} with seed {own_seed}")
            for where, value in expected.items():
                value = value.replace("{seed}", str(seed)) if isinstance(value, str) else value
                try:
                    is_there = value_of(record, where)
                except KeyError as error:
                    is_there = error.args[0]
                if is_there != value:
                    found.append(f"{name}-{seed}: {where} is {is_there!r}, the ledger says {value!r}")
    for claim in read_ledger(path):
        found += [f"claim {claim.text['id']} is about {name}, which the ledger does not list"
                  for name in claim.run_names if name not in runs]
    return found
