"""Write the computed parts of the Markdown pages: the ledger, the landing page's findings, the joint orders.

    python tools/write_pages.py             write them anew, in place
    python tools/write_pages.py --check     change nothing, only say which page is stale; the exit status is then 1

A computed part stands between `<!-- computed: NAME -->` and `<!-- end of NAME -->`; everything else on the page is
written by hand and left alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gpu_needs
import probe_behaviour
import pyarrow.parquet as pq
from clean_notebooks import ROOT

from posebook import claims, results
from posebook.datasets import find_shards, human36m, lspet
from posebook.skeleton import SKELETONS

GROUPS = {"A": "Paper A: detection beside regression, in 2D", "B": "Paper B: the same in 3D, and what the weights know",
          "book": "This book's own claims"}
BLOCK = re.compile(r"(<!-- computed: ([\w-]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def chapter_link(name: str) -> str:
    number = name.split("-")[0]
    return f"[{int(number)}]({name})"


def overview() -> str:
    """One table for each paper and one for the book: claim, verdict, chapter."""
    parts, ledger = [], claims.read_ledger()
    for of, title in GROUPS.items():
        rows = [[f"[{c.text['id']}](#claim-{c.text['id'].lower()})", c.text["title"], f"**{c.verdict}**",
                 chapter_link(c.text["chapter"])] for c in ledger if c.text["of"] == of]
        parts.append(f"**{title}**\n\n" + plain_table(["", "claim", "verdict", "chapter"], rows))
    return "\n\n".join(parts)


def plain_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose cells are all set left."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def entries() -> str:
    """Every claim with its tests, rule, records and commands."""
    rules, ledger, parts = claims.read_rules(), claims.read_ledger(), []
    for of, title in GROUPS.items():
        parts.append(f"## {title}")
        parts += [entry(claim, rules) for claim in ledger if claim.text["of"] == of]
    return "\n\n".join(parts)


def entry(claim: claims.Claim, rules: dict[str, str]) -> str:
    """One claim."""
    text, found = claim.text, claim.findings
    units = {f.unit for f in found}
    unit = f", {units.pop()}" if len(units) == 1 and units != {""} else ""
    against, images = any(f.base for f in found), any(f.difference for f in found)
    header = ["test", "met?", f"ours{unit}", *([f"against{unit}"] if against else []),
              *(["difference (95 % over images)"] if images else []), "runs"]
    rows = [[f.label, claims.OUTCOMES[f.outcome], f.span(f.ours), *([f.span(f.base)] if against else []),
             *([f.interval] if images else []), str(len(f.ours))] for f in found]
    lines = [f"(claim-{text['id'].lower()})=\n### {text['id']}. {text['title']}",
             f"**{claim.verdict.capitalize()}** (chapter {chapter_link(text['chapter'])})."
             + (f" Said in: {text['where'].rstrip('.')}." if "where" in text else ""),
             results.table(header, rows)]
    if "note" in text:
        lines.append(text["note"])
    rule = text.get("rule_text", rules[text["rule"]])
    if text.get("afterwards"):
        rule += " This comparison was not among those asked for before the runs."
    elif text["rule"] == "compare":
        rule += " The rule was written before the runs."
    commands = list(dict.fromkeys(claim.command(name) for name in claim.run_names))
    records = ", ".join(f"`{name}-0` to `-{n - 1}`" if (n := claim.runs[name]["seeds"]) > 1 else f"`{name}-0`"
                        for name in claim.run_names)
    lines.append(f":::{{dropdown}} Rule, records, commands\n**Rule.** {rule}\n\n"
                 f"**Records.** {records}\n\n```bash\n" + "\n".join(commands) + "\n```\n:::")
    return "\n\n".join(lines)


def runs() -> str:
    """Where the records come from."""
    rows = []
    for name, run in claims.read_runs().items():
        records = claims.records_of(name, run)
        about = [r["environment"] for r in records]
        minutes = [r["seconds"] / 60 for r in records if "seconds" in r]
        commits, hardware = (", ".join(sorted({a[what] for a in about})) for what in ("commit", "hardware"))
        rows.append([f"`{name}`", str(len(records)), commits, hardware,
                     " to ".join(dict.fromkeys(f"{f(minutes):.1f}" for f in (min, max))) if minutes else ""])
    return results.table(["records", "runs", "commit", "hardware", "minutes each"], rows)


def fields() -> str:
    """What a record holds."""
    return plain_table(["field", "in which records", "type", "meaning"],
                       [[f"`{name}`", needed, kind.__name__, meaning]
                        for name, (needed, kind, meaning) in results.RECORD_FIELDS.items()])


def behaviour() -> str:
    """The probes, since when the code gives their numbers, and how many records rest on each."""
    records = [results.read_record(path) for path in sorted(results.results_folder().glob("*.json"))]
    rests = Counter(probe for record in records for probe in probe_behaviour.probes_of(record))
    rows = [[name, probe_behaviour.PROBES[name].__doc__.rstrip("."),
             known["since"][:16].replace("T", " "), str(rests[name])]
            for name, known in probe_behaviour.kept().items()]
    return plain_table(["probe", "what it computes", "the same numbers since (UTC)", "records that rest on it"], rows)


def splits() -> str:
    """How the data sets are split, from their files, their loaders and the records of training on them."""
    rows = []
    for split in ("train", "validation", "test"):
        columns = ("subject", "clip", "background")
        shards = [pq.read_table(path, columns=list(columns)) for path in find_shards(split)]
        count = {what: len(set().union(*(table[what].to_pylist() for table in shards))) for what in columns}
        first, last = lspet.SPLITS[split]
        rows.append([split, (f"{sum(len(table) for table in shards):,} pictures of {count['subject']:,} persons, "
                             f"{count['clip']} recordings, {count['background']} places"),
                     f"images {first} to {last}", ", ".join(human36m.SPLITS[split])])
    record = results.read_record("regression-lspet-0")
    rows[0][2] += f", {record['training_images']:,} usable"
    rows[1][2] += f", {record['scores']['all']['network']['images']:,} usable"
    return plain_table(["split", "people", "lspet", "Human3.6M"], rows)


def joints() -> str:
    """The joint orders of all skeletons side by side, and their limbs."""
    length = max(len(s) for s in SKELETONS.values())
    rows = [[str(i), *(s.joints[i].replace("_", " ") if i < len(s) else "" for s in SKELETONS.values())]
            for i in range(length)]
    rows += [["root", *(s.joints[s.root].replace("_", " ") for s in SKELETONS.values())],
             ["limbs", *(str(len(s.limbs)) for s in SKELETONS.values())]]
    return plain_table(["", *SKELETONS], rows)


def speed() -> str:
    """What a training step spends its time on, by the profile of benchmarks/step.py."""
    record = results.read_record(ROOT / "benchmarks" / "step.json")
    machine, able = record["environment"], record["speed"]
    parts = [f"Measured on {machine['hardware']}, torch {machine['torch']}, one thread, at a load of "
             f"{record['load']:.0f} (programs that wanted a processor; times are those that the thread itself spent on "
             f"one). The limits, in thousand million a second: {able['float32']:.0f} operations in float32, "
             f"{able['bfloat16']:.1f} in bfloat16, {able['small']:.0f} bytes copied, {able['lookups']:.2f} numbers "
             "looked up."]
    for name, found in record["networks"].items():
        parts.append(f"**{name}**, tasks {' and '.join(found['tasks'])}, {found['precision']}: "
                     f"{1e3 * found['step_seconds']:.0f} milliseconds a step.")
        shown = sorted(found["parts"], key=lambda part: -part["seconds"])
        rows = [[f"{part['part']}, {part['phase']}", part["seconds"] * 1e3,
                 100 * part["seconds"] / found["step_seconds"],
                 part["limit_seconds"] / part["seconds"] if part["limit_seconds"] else None] for part in shown[:14]]
        rest = sum(part["seconds"] for part in shown[14:])
        rows.append([f"{len(shown) - 14} more parts", rest * 1e3, 100 * rest / found["step_seconds"], None])
        parts.append(results.table(["part", "milliseconds", "% of the step", "limit reached"], rows, 2))
    return "\n\n".join(parts)


def gaps() -> str:
    """What lies behind the largest gaps, by benchmarks/gaps.py."""
    table = json.loads((ROOT / "benchmarks" / "table.json").read_text(encoding="utf-8"))["gaps"]
    rows = [[title, f"{row['value']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}"]
            for title, row in table["rows"].items()]
    return (f"Measured on {table['machine']}, at a load of up to {table['load']:.0f}.\n\n"
            + results.table(["", "figure", "spread of five processes"], rows))


def shared() -> str:
    """What it brings to share a training, and what streaming costs, by benchmarks/parallel.py."""
    found = json.loads((ROOT / "benchmarks" / "parallel.json").read_text(encoding="utf-8"))
    rows = [[way, f"{found['images_a_second'][way]['median']:.0f}", f"{times['median']:.2f}",
             f"{times['lowest']:.2f} to {times['highest']:.2f}"]
            for way, times in found["of_one_process_with_one_thread"].items()]
    return (f"Measured on {found['environment']['hardware']}, {found['processors']} processors, at a load of "
            f"{found['load']['lowest']:.0f} to {found['load']['highest']:.0f}, {found['turns']} turns of "
            f"{found['images']} images each.\n\n"
            + results.table(["", "images a second", "of one process, one thread", "spread of the turns"], rows))


def reliability() -> dict:
    """What tools/soak.py and tools/fuzz.py have counted."""
    return results.read_record(ROOT / "benchmarks" / "reliability.json")


def soaked() -> str:
    """How often a training was killed, and where the kills fell."""
    series, fell = reliability()["soak"], Counter()
    for one in series:
        for phase, count in one["fell"].items():
            fell[phase.removesuffix(" before the first checkpoint")] += count
    starts, kills, ended, unlike, left = (sum(one[key] for one in series) for key in (
        "starts", "kills", "runs_finished", "differences", "kills_that_left_a_part"))
    minutes, never = (sum(one[key] for one in series) for key in ("minutes", "of_these_never_killed"))
    seeds = " and ".join(str(one["seed"]) for one in series)
    aimed = sum(one["aimed"]["while a file was written"] for one in series)
    said = (f"{starts:,} starts and {kills:,} kills (seed {seeds}, {minutes:.0f} minutes), {aimed} of them aimed at "
            f"the writing of a file. {ended} runs were finished, {never} of them without a kill, and {unlike} differ "
            f"from a run in one go. {left} kills left a half-written file behind. Commit "
            f"{series[-1]['environment']['commit']}.")
    return said + "\n\n" + plain_table(["kills fell in", "how often"], [[k, str(n)] for k, n in fell.most_common()])


def fuzzed() -> str:
    """What came of damaged files."""
    found = reliability()["fuzz"]
    total = found["total"]
    said = (f"{sum(total.values()):,} damaged files of {len(found['kinds'])} kinds (seed {found['seed']}, "
            f"{found['minutes']:.0f} minutes): {total['refused']:,} were refused in a sentence that names the file, "
            f"{total['answered']:,} read all the same, {total.get('failed', 0)} failed. Commit "
            f"{found['environment']['commit']}.")
    return said + "\n\n" + plain_table(["kind", "refused", "read all the same", "failed"], [
        [kind, *(str(counts.get(key, 0)) for key in ("refused", "answered", "failed"))]
        for kind, counts in found["kinds"].items()])


def findings() -> str:
    return "\n".join(f"- {sentence}" for sentence in claims.read_highlights())


PARTS: dict[str, Callable[[], str]] = {"overview": overview, "claims": entries, "runs": runs, "fields": fields,
                                       "behaviour": behaviour, "splits": splits, "joints": joints,
                                       "speed": speed, "gaps": gaps, "shared": shared,
                                       "soaked": soaked, "fuzzed": fuzzed,
                                       "findings": findings, **gpu_needs.PARTS}


def written(page: str) -> str:
    """The page with its computed parts made anew."""
    def part(match: re.Match) -> str:
        if match[2] not in PARTS:
            raise ValueError(f"there is no computed part {match[2]!r}; there are {', '.join(PARTS)}")
        return f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}"
    return BLOCK.sub(part, page)


def pages(folder: Path = ROOT / "book") -> list[Path]:
    """The pages that have a computed part."""
    return [path for path in sorted(folder.glob("*.md")) if BLOCK.search(path.read_text(encoding="utf-8"))]


def main(arguments: list[str] | None = None) -> int:
    """Write or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    wrong = claims.problems()
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = written(before) if not wrong else before
        if after != before:
            if options.check:
                wrong.append(f"{page.name} is stale: run `python tools/write_pages.py`")
            else:
                page.write_text(after, encoding="utf-8")
                print(f"wrote {page.name}")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
