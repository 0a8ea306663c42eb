"""Every number of the README and the guides that comes from runs, written from the tables in results/reference.

A text marks the place: between `<!-- evidence: KIND STUDY[ ARGUMENT] -->` and `<!-- /evidence -->` stands what this
script makes of that study's tables.

    methods     Table 7, over seeds where there are several: scores, the difference of each mean from the baseline's
    compared    one comparison: `TABLE SYSTEM AGAINST TASK[,TASK ...]`, columns of the table separated by `|`
    answers     questions, a line each below KIND: `QUESTION | STUDY TABLE | SYSTEM | AGAINST`
    measured    a table's columns, and of its rows those that are wanted: `TABLE COLUMN,COLUMN ...[ where QUERY]`

    python docs/evidence.py            # write
    python docs/evidence.py --check    # exit with 1 where a text and the tables disagree
"""

import math
import re
import sys
from pathlib import Path

import pandas as pd

from mtlib.study.tables import signed

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
BLOCK = re.compile(r"(<!-- evidence: (.+?) -->\n)(.*?)(\n?<!-- /evidence -->)", re.DOTALL)
TASKS = {"qqp": "QQP", "sst": "SST-5", "sts": "STS-B (r + 1) / 2", "mean": "mean", "evenness": "evenness"}


def methods(study: str) -> str:
    """Table 7's methods, over seeds where there are several, and what resolves their means from the baseline's."""
    table, name = read(study, "table_7").set_index("method"), "table_7_differences"
    scores, printed = table, table["mean paper"]
    if (REFERENCE / study / "table_seeds.csv").is_file():
        name, scores = "table_seeds_differences", read(study, "table_seeds")
        scores = scores.pivot(index="system", columns="task", values="mean")
        scores = scores.loc[[method for method in table.index if method in scores.index]]
    means = read(study, name).query("task == 'mean' and against == 'baseline'").set_index("system")
    rows = []
    for method, row in scores.iterrows():
        shown = {TASKS[task]: score(row[task]) for task in ("qqp", "sst", "sts", "mean")}
        found = means.loc[method] if method in means.index else None
        shown["mean against the baseline"] = "" if found is None else f"{difference(found)}, {resolved(found)}"
        shown["the report's mean"] = score(printed[method]) if pd.notna(printed[method]) else ""
        rows.append({"method": method} | shown)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def compared(study: str, argument: str) -> str:
    """Some rows of a comparison as a list: system against another, by task, with interval and what is resolved."""
    lines = []
    for line in argument.split(" ; "):
        name, system, against, tasks = (part.strip() for part in line.split("|"))
        rows = comparison(study, name, system, against)
        for task in map(str.strip, tasks.split(",")):
            row = rows.loc[task]
            seeds = f", {row['seeds']} seeds each" if row.get("seeds", 1) > 1 else ""
            lines.append(f"- {system} against {against}, {TASKS[task]}{seeds}: {difference(row)}, {resolved(row)}")
    return "\n".join(lines)


def comparison(study: str, name: str, system: str, against: str) -> pd.DataFrame:
    """The rows of a table that compare one system with another, by task."""
    table = read(study, name)
    rows = table[(table["system"] == system) & (table.get("against", against) == against)].set_index("task")
    if rows.empty or not rows.index.is_unique:
        raise SystemExit(f"{study}/{name}: {len(rows)} rows of {system!r} against {against!r}")
    return rows


def answers(_: str, argument: str) -> str:
    """Questions with the differences that answer them, of the mean with its interval; in bold what is resolved."""
    rows = []
    for line in argument.strip().splitlines():
        question, place, system, against = (part.strip() for part in line.split("|"))
        study, name = place.split()
        found = comparison(study, name, system, against)
        cells = {TASKS[task]: found.loc[task] for task in ("sst", "qqp", "sts", "mean")}
        shown = {
            "question": question,
            "compared": f"{system} against {against}",
            "seeds": seeds(study, name, found.iloc[0]),
        }
        shown |= {title: signed(row["difference"]) for title, row in cells.items()}
        shown["mean"] = difference(cells["mean"])
        rows.append(shown | {title: f"**{shown[title]}**" for title, row in cells.items() if row["resolved"] == "yes"})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def seeds(study: str, name: str, row: pd.Series) -> int:
    """How many seeds of each system a row compares."""
    if name.startswith("table_seeds_"):
        return read(study, "table_seeds")["seeds"].max()
    if said := re.search(r"over (\d+) seeds", (REFERENCE / study / f"{name}.md").read_text(encoding="utf-8")):
        return int(said[1])
    return int(row.get("seeds", 1))


def measured(study: str, argument: str) -> str:
    """Some columns of a table as they are, numbers with three significant digits, differences with three decimals."""
    name, columns = argument.split(maxsplit=1)
    columns, _, where = columns.partition(" where ")
    table = read(study, name)
    table = (table.query(where) if where else table)[[column.strip() for column in columns.split(",")]]
    for name in ("difference", "low", "high") if "difference" in table else ():
        table[name] = ["" if math.isnan(value) else signed(value) for value in table[name]]
    return table.map(shortened).replace("nan", "").to_markdown(index=False, disable_numparse=True)


def read(study: str, name: str) -> pd.DataFrame:
    """A table of a reference study."""
    return pd.read_csv(REFERENCE / study / f"{name}.csv", dtype={"commit": str})


def shortened(value: object) -> str:
    """A cell as text: a number with three significant digits, below 1 with three decimals or more; nothing for none."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value) or not value:
        return "" if value else "0"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) >= 1:
        return f"{value:#.3g}".rstrip(".")
    return max(f"{value:.3g}", f"{value:.3f}", key=len)


def score(value: float) -> str:
    """A score with three decimals and no zero before the point."""
    return f"{value:.3f}".lstrip("0")


def difference(row: pd.Series) -> str:
    """A difference with its 95 % interval."""
    numbers = [signed(row[name]) for name in ("difference", "low", "high")]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def resolved(row: pd.Series) -> str:
    """What Holm's correction leaves of it; "the same" where no draw of examples tells the two apart."""
    if row["low"] == row["difference"] == row["high"] == 0:
        return "the same"
    return {"yes": "resolved", "no": "not resolved"}.get(row["resolved"], "undefined")


def written(text: str) -> str:
    """The text with every block made anew."""

    def block(match: re.Match) -> str:
        kind, rest = match[2].split(maxsplit=1)
        study, *argument = ["", rest] if kind == "answers" else rest.split(maxsplit=1)
        made = {"methods": methods, "compared": compared, "measured": measured, "answers": answers}[kind](
            study, *argument
        )
        return f"{match[1]}{made}\n{match[4].lstrip()}"

    return BLOCK.sub(block, text)


def main() -> int:
    """Write, or check, README.md and every guide."""
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if (made := written(text)) == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(made, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"{', '.join(stale)}: not what results/reference says; `make evidence` writes it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
