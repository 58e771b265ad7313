"""How a model in its form is run: only commands that this form can serve."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from biomistral.errors import UserError

_CHAT = '''messages = [{{"role": "user", "content": "Which vitamin deficiency causes scurvy?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)'''
_PLAIN = '''inputs = tokenizer("Question: Which vitamin deficiency causes scurvy?\\nAnswer:", return_tensors="pt")'''
_TRANSFORMERS = '''from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name})
model = AutoModelForCausalLM.from_pretrained({name}, dtype="auto")
{ask}
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))'''
_ADAPTER = '''from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base})
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}, dtype="auto"), {name})'''
_LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` can be, from its default on (its docs, vllm.config.lora, MaxLoRARanks)."""


@dataclass(frozen=True)
class Form:
    """How a model lies on the disk: ``plain`` (16 or 32 bits), ``awq``, ``compressed-tensors``, ``bitsandbytes``, ``gguf`` or
    ``adapter``."""

    name: str
    detail: dict[str, Any]
    chats: bool
    """Whether it has a chat template."""


@dataclass(frozen=True)
class Command:
    """A way to run it: for which program, in which language, what to type, and what that needs."""

    program: str
    language: str
    text: str
    needs: str = ""


def form_of(folder: Path) -> Form:
    """Raises:
        UserError: the folder's config cannot be read.
    """
    if (folder / "adapter_config.json").is_file():
        return Form("adapter", _json(folder / "adapter_config.json"), chats=False)
    chats = (folder / "chat_template.jinja").is_file() or bool(_json(folder / "tokenizer_config.json").get("chat_template"))
    if files := sorted(folder.glob("*.gguf")):
        return Form("gguf", {"file": files[0].name, "type": files[0].stem.rpartition("-")[2]}, chats)
    quantization = _json(folder / "config.json").get("quantization_config") or {}
    return Form(quantization.get("quant_method", "plain"), quantization, chats)


def commands(form: Form, name: str, published: bool, base: str | None = None) -> list[Command]:
    """The ways to run a model of this form; ``name`` is its name on the hub if it is ``published``, else its folder's."""
    local = [Command("biomistral", "sh", f"biomistral chat {quote(f'hub:{name}' if published else name)}")]
    if form.name == "gguf":
        return [*_gguf(form, name, published), *local]
    if form.name == "adapter":
        return _adapter(form, name, base or "PATH-OF-THE-BASE-MODEL")
    ask = (_CHAT if form.chats else _PLAIN).replace("{{", "{").replace("}}", "}")
    needs = {"awq": "the packages `gptqmodel` and `accelerate`", "compressed-tensors": "the package `compressed-tensors`",
             "bitsandbytes": "the package `bitsandbytes` and `accelerate`"}.get(form.name, "")
    found = [Command("transformers", "python", _TRANSFORMERS.format(name=_literal(name), ask=ask), needs)]
    if not (form.name == "bitsandbytes" and form.detail.get("load_in_8bit")):  # vLLM takes up bitsandbytes' 4-bit folders
        found.append(Command("vLLM", "sh", f"vllm serve {quote(name)}"))
    return [*found, *local]


def _adapter(form: Form, name: str, base: str) -> list[Command]:
    text = _ADAPTER.format(name=_literal(name), base=_literal(base))
    found = [Command("transformers", "python", text, "the package `peft`")]
    rank = next((most for most in _LORA_RANKS if form.detail.get("r", 16) <= most), None)
    if rank is not None:
        found.append(Command("vLLM", "sh", f"vllm serve {quote(base)} --enable-lora --lora-modules {quote(f'adapter={name}')}"
                             + (f" --max-lora-rank {rank}" if rank > 16 else "")))
    return found


def _gguf(form: Form, name: str, published: bool) -> list[Command]:
    file, kind = form.detail["file"], form.detail["type"]
    short = re.sub(r"[^a-z0-9_.-]+|\.\.+", "-", name.rpartition("/")[2].lower()).strip("-.")[:80] or "model"  # Ollama's names
    # llama.cpp's llama-cli only chats since December 2025; completions moved to a program of their own
    here = [Command("llama.cpp", "sh", f"llama-cli -m {quote(file)} -cnv" if form.chats else
                    f'llama-completion -m {quote(file)} -no-cnv -n 64 -p "Question: Which vitamin deficiency causes scurvy?"',
                    "" if not published else f"the file `{file}`"),
            Command("Ollama", "sh", f"ollama create {short} -f Modelfile\nollama run {short}", "the `Modelfile` of this folder")]
    if not published:
        return here
    there = [Command("llama.cpp", "sh", f"llama-server -hf {name}:{kind}"),
             Command("Ollama", "sh", f"ollama run hf.co/{name}:{kind}")]
    return [*there, *here]


def _literal(text: str) -> str:
    """A string as Python writes it; the quotes are double ones, as in the code around it."""
    return json.dumps(text, ensure_ascii=False)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    return data if isinstance(data, dict) else {}
