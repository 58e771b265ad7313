"""The tokenizer and the chat template of a merged model."""

import json
import shutil
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.merging.plan import Plan
from biomistral.merging.vocabulary import added_entries
from biomistral.models.folder import copy_tokenizer

_TURN = "{%% for message in messages %%}%s{%% endfor %%}{%% if add_generation_prompt %%}%s{%% endif %%}"
TEMPLATES = {
    "chatml": _TURN % ("<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n", "<|im_start|>assistant\n"),
    "llama3": "{{ bos_token }}" + _TURN % (
        "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "mistral": "{{ bos_token }}" + _TURN % (
        "{% if message.role == 'assistant' %}{{ ' ' + message.content | trim + eos_token }}"
        "{% else %}{{ '[INST] ' + message.content | trim + ' [/INST]' }}{% endif %}", ""),
    "alpaca": _TURN % (
        "{% if message.role == 'system' %}{{ message.content | trim }}\n\n{% else %}"
        "### {{ 'Instruction' if message.role == 'user' else 'Response' }}:\n{{ message.content | trim }}\n\n{% endif %}",
        "### Response:\n"),
}
"""Chat templates that can be asked for by name."""


def check_template(plan: Plan) -> None:
    """Whether ``chat_template`` is ``auto``, the name of a template, or a template.

    Raises:
        UserError: it is none of these.
    """
    text = plan.merge.config.chat_template
    if text is not None and text != "auto" and text not in TEMPLATES and "{" not in text:
        raise UserError(f"{plan.merge.where('chat_template')}: chat_template {text!r} is no template; write its text, 'auto' for "
                        f"the one that most models have, or one of {', '.join(TEMPLATES)}")


def write_tokenizer(plan: Plan, folder: Path) -> None:
    """Put tokenizer, chat template and generation settings beside the weights."""
    asked = plan.merge.tokenizer
    chosen = plan.base if asked is None or asked.source in ("base", "union") else plan.models[asked.source]
    copy_tokenizer(chosen.folder, folder)
    if not (folder / "generation_config.json").is_file() and (plan.base.folder / "generation_config.json").is_file():
        shutil.copyfile(plan.base.folder / "generation_config.json", folder / "generation_config.json")
    if plan.vocabulary is not None and plan.vocabulary.added:
        _add_tokens(plan, folder)
    if (text := _template(plan)) is not None:
        write_text(folder / "chat_template.jinja", text)
        _edit(folder / "tokenizer_config.json", drop="chat_template")


def _add_tokens(plan: Plan, folder: Path) -> None:
    """The tokens that the chosen tokenizer lacked; forms of it that cannot hold them are left out."""
    assert plan.vocabulary is not None
    write_text(folder / "tokenizer.json", plan.vocabulary.tokenizer.to_str(pretty=True))
    for name in ("tokenizer.model", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"] |= added_entries(plan.vocabulary)
            write_json(path, config)


def _template(plan: Plan) -> str | None:
    """The chat template that is asked for, if one is."""
    asked = plan.merge.config.chat_template
    if asked != "auto":
        return TEMPLATES.get(asked, asked) if asked is not None else None
    found = [text for model in plan.models.values() if (text := chat_template(model.folder)) is not None]
    return max(found, key=found.count, default=None)  # of equally common ones the base's, then the first named


def chat_template(folder: Path) -> str | None:
    """The chat template of a model folder, from its own file or from the tokenizer's config."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    inline = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
    return inline if isinstance(inline, str) else None


def _edit(path: Path, drop: str) -> None:
    """Take a key out of a JSON file, if it is there."""
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop(drop, None) is not None:
            write_json(path, config)


def vocabulary_settings(plan: Plan) -> dict[str, Any]:
    """What ``config.json`` says of the vocabulary, where it is not the base's."""
    if plan.vocabulary is None:
        return {}
    source = plan.vocabulary.source
    ids: dict[str, Any] = {key: source.config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
                           if key in source.config}
    return {**ids, "vocab_size": plan.vocabulary.size}
