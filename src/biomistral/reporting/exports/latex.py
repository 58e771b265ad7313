"""Scores as LaTeX tables like the paper's: models down, tasks across; marks only where the paired test bears them out."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

from biomistral.reporting.compare import boards, discordant
from biomistral.reporting.exports.scores import Score
from biomistral.reporting.pairwise import SIGNIFICANT
from biomistral.reporting.results import Run
from biomistral.statistics import holm, mcnemar

_ESCAPES = {"\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
            "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
            "|": "\\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}", "\"": "\\textquotedbl{}", "`": "\\textasciigrave{}",
            "'": "\\textquotesingle{}"}
"""``[`` and ``*`` at a row's beginning would be an argument of the ``\\\\`` before it."""
NAMES = {"mmlu_clinical_knowledge": "Clinical KG", "mmlu_medical_genetics": "Medical Genetics", "mmlu_anatomy": "Anatomy",
         "mmlu_professional_medicine": "Pro Medicine", "mmlu_college_biology": "College Biology",
         "mmlu_college_medicine": "College Medicine", "medqa_4": "MedQA", "medqa_5": "MedQA 5 opts", "pubmedqa": "PubMedQA",
         "medmcqa": "MedMCQA"}
"""The paper's names of its ten tasks."""
_PREAMBLE = "% needs \\usepackage{booktabs,textcomp,graphicx} and \\usepackage[T1]{fontenc}"
_BEYOND = """% holds letters that pdflatex cannot set with these ({}): compile with lualatex, and instead of fontenc
% \\usepackage{{fontspec}} with \\setmainfont of a font that has them; words that run from right to left need babel besides"""
_KNOWN = re.compile("[\n -~\u00a1-\u0125\u0128-\u0137\u0139-\u013e\u0141-\u0148\u014a-\u0165\u0168-\u017e\u0218-\u021b"
                    "\u2010-\u2016\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2116\u2122\u2190-\u2193]")
"""What LaTeX knows in UTF-8 with fontenc's T1 and textcomp (its t1enc.dfu and ts1enc.dfu), as far as names may hold it."""
_WIDTH = "\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi"
"""Wide tables are made to fit; narrow ones are not blown up."""
_PENDING = 15
"""LaTeX gives up when more floats than 18 (52 since 2015) wait for a place, so after this many they are set."""


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands, on one line; control characters are left out, accents joined with their letters, since
    pdflatex knows them only so."""
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    shown = "".join(_ESCAPES.get(mark, mark) for mark in line if mark.isprintable())
    return re.sub("-(?=-)|,(?=,)", "\\g<0>{}", shown)  # two hyphens would become a dash, two commas a quotation mark


def write(runs: Sequence[Run], imported: Sequence[Score]) -> str:
    """A table a board of measured runs, then one of imported scores a protocol: these carry no marks."""
    tables = [_measured(board) for board in boards(runs)]
    for _, scores in groupby(sorted(imported, key=lambda score: score.table), key=lambda score: score.table):
        tables.append(_reported(list(scores)))
    pages = ["\n\n".join(tables[start:start + _PENDING]) for start in range(0, len(tables), _PENDING)]
    text = "\n\n\\clearpage\n\n".join(pages) + "\n"
    beyond = sorted(set(_KNOWN.sub("", text)))
    told = [_BEYOND.format(", ".join(f"U+{ord(mark):04X}" for mark in beyond[:5]) + (", ..." if beyond[5:] else ""))]
    return "\n".join([_PREAMBLE, *(told if beyond else []), "", text])


def marks(board: Sequence[Run], task: str) -> tuple[Run | None, Run | None]:
    """The model to set in bold and the one to underline: the best if it is better than every other one, and the second if it is
    better than all but the best, by exact McNemar tests on the same questions, Holm-corrected for their number; else None."""
    order = sorted((run for run in board if task in run.summary.tasks), key=lambda run: -run.summary.tasks[task].accuracy)
    best = order[0] if len(order) > 1 and _beats_all(order[0], order[1:], task) else None
    second = order[1] if best is not None and len(order) > 2 and _beats_all(order[1], order[2:], task) else None
    return best, second


def _beats_all(run: Run, others: Sequence[Run], task: str) -> bool:
    p_values = [mcnemar(*discordant(run, other, "task", task)) for other in others]
    return all(p < SIGNIFICANT for p in holm(p_values))


def _measured(board: Sequence[Run]) -> str:
    first = board[0]
    tasks = list(first.summary.tasks)
    marked = {task: marks(board, task) for task in tasks}
    rows = []
    for run in board:
        cells = []
        for task in tasks:
            score = run.summary.tasks[task]
            text = f"{100 * score.accuracy:.1f}" + (f" $\\pm$ {100 * (score.spread or 0):.1f}" if run.shot_sets > 1 else "")
            best, second = marked[task]
            cells.append(f"\\textbf{{{text}}}" if run is best else f"\\underline{{{text}}}" if run is second else text)
        rows.append([escape(run.model.name), *cells, f"{100 * run.summary.average:.1f}"])
    told = (f"Accuracy in \\% on {escape(first.benchmark.name)}, split {escape(first.benchmark.split)}, protocol "
            f"{escape(first.protocol)} (definition {first.summary.definition_hash[:12]})"
            + (f", mean over {first.shot_sets} shot sets $\\pm$ standard deviation" if first.shot_sets > 1 else "")
            + ". Bold: better than every other model; underlined: better than all but that one (exact McNemar tests on the same "
            f"questions, Holm-corrected, $p < {SIGNIFICANT}$); no mark where the tests do not tell. Avg.: unweighted mean, not "
            "tested.")
    return _table(tasks, rows, told)


def _reported(scores: list[Score]) -> str:
    tasks = list(dict.fromkeys(score.task for score in scores))
    rows = []
    for model in dict.fromkeys(score.model for score in scores):
        own = {score.task: score for score in scores if score.model == model}
        cells = [f"{100 * own[task].accuracy:.1f}" if task in own else "--" for task in tasks]
        mean = f"{100 * sum(score.accuracy for score in own.values()) / len(own):.1f}" if len(own) == len(tasks) else "--"
        rows.append([escape(model), *cells, mean])
    first = scores[0]
    return _table(tasks, rows, f"Accuracy in \\% as reported by {escape(first.origin)}, protocol {escape(first.protocol)}; not "
                  "measured here, not to be ranked with other tables.")


def _table(tasks: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    head = ["Model", *(NAMES.get(task, escape(task)) for task in tasks), "Avg."]
    lines = ["\\begin{table}[t]", "\\centering", f"\\caption{{{caption}}}", f"\\resizebox{{{_WIDTH}}}{{!}}{{%",
             f"\\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}", "\\toprule", " & ".join(head) + " \\\\", "\\midrule",
             *(" & ".join(row) + " \\\\" for row in rows), "\\bottomrule", "\\end{tabular}}", "\\end{table}"]
    return "\n".join(lines)
