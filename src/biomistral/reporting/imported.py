"""Results that another harness measured, brought in beside ours: marked by its own protocol, never ranked with another one."""

import json
import math
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.recipe import canonical_hash
from biomistral.statistics import wilson

KIND = "reported"
METRICS = ("acc", "acc_norm", "exact_match")
"""What lm-eval calls shares of right answers: by likelihood, by likelihood per byte, by text. Others are left out."""

_PROMPT = ("dataset_path", "dataset_name", "test_split", "doc_to_text", "doc_to_target", "doc_to_choice", "description",
           "target_delimiter", "fewshot_delimiter", "fewshot_config", "output_type", "generation_kwargs", "filter_list")
_RUN = ("lm_eval_version", "chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")


def from_lm_eval(path: Path, name: str) -> dict[str, Any]:
    """``reported.json`` (docs/formats.md) of an lm-eval results file.

    Raises:
        UserError: the file is not one, or holds no accuracy.
    """
    data = _read(path)
    name = name or str(data.get("model_name") or "").rstrip("/").rpartition("/")[2]
    if not name:
        raise UserError(f"{path}: does not say which model it is about; name it with --name")
    protocols = _protocols(data, path)
    about = {"name": name, "dtype": str(data["config"].get("model_dtype") or "").removeprefix("torch.") or None,
             "parameters": data["config"].get("model_num_parameters")}
    return {"model": about, "harness": f"lm-eval {data['lm_eval_version']}", "protocols": protocols}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    needed = {"results": dict, "configs": dict, "versions": dict, "n-shot": dict, "n-samples": dict, "config": dict,
              "lm_eval_version": str}
    for field, kind in needed.items():
        if not isinstance(data, dict) or not isinstance(data.get(field), kind):
            raise UserError(f"{path}: not a results file of lm-eval 0.4 (no '{field}'); give the results_*.json that "
                            "'lm_eval --output_path' wrote")
    return dict(data)


def _protocols(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Scores by protocol: tasks asked with as many shots, scored alike. Groups are means of tasks that stand by themselves."""
    found: dict[str, Any] = {}
    for task, scores in data["results"].items():
        if task not in data["n-samples"] or not isinstance(scores, dict):
            continue
        for key, value in scores.items():
            metric, _, way = key.partition(",")
            if metric in METRICS:
                name = f"lm-eval-{data['n-shot'].get(task, 0)}shot-{metric}" + (f"-{way}" if way not in ("", "none") else "")
                found.setdefault(name, {"tasks": {}})["tasks"][task] = _score(data, task, value, f"{path}: {task}: {key}")
    if not found:
        raise UserError(f"{path}: holds no accuracy ({', '.join(METRICS)}) of any task")
    for one in found.values():
        one["definition"] = {**{name: data.get(name) for name in _RUN}, "limit": data["config"].get("limit"),
                             "tasks": {task: _definition(data, task) for task in one["tasks"]}}
        one["definition_hash"] = canonical_hash(one["definition"])
        one["average"] = sum(score["accuracy"] for score in one["tasks"].values()) / len(one["tasks"])
    return found


def _score(data: dict[str, Any], task: str, value: Any, where: str) -> dict[str, Any]:
    n = data["n-samples"][task].get("effective")
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
        raise UserError(f"{where}: {value!r} is no share of right answers")
    if not isinstance(n, int) or n < 1:
        raise UserError(f"{where}: {n!r} questions; at least one was expected")
    return {"n": n, "accuracy": float(value), "interval": list(wilson(value * n, n))}


def _definition(data: dict[str, Any], task: str) -> dict[str, Any]:
    """What fixes a task's prompt, without the places of files."""
    config = data["configs"].get(task) or {}
    return {"version": data["versions"].get(task), **{name: config[name] for name in _PROMPT if config.get(name) is not None}}


def read_imported(folder: Path) -> dict[str, Any]:
    """``reported.json`` of a folder of kind `KIND`."""
    return dict(json.loads((folder / f"{KIND}.json").read_text(encoding="utf-8")))


def groups(reported: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a model and table: what lm-eval wrote is one, other files may hold several."""
    return list(reported.get("several") or [reported])


def tables(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table for every protocol, definition and set of tasks: what differs in one stands in another table, ours in none."""
    boards: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in (one for reported in found for one in groups(reported)):
        for protocol, scores in one["protocols"].items():
            board = boards.setdefault((protocol, scores["definition_hash"], *sorted(scores["tasks"])), {
                "protocol": protocol, "harness": one["harness"], "definition_hash": scores["definition_hash"],
                "definition": scores["definition"], "tasks": list(scores["tasks"]), "rows": []})
            board["rows"].append({"model": one["model"]["name"], "scores": scores["tasks"], "average": scores["average"]})
    for board in boards.values():
        board["rows"].sort(key=lambda row: (-row["average"], row["model"]))
    return list(boards.values())
