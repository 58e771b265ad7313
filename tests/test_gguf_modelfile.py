"""The Modelfile: what Ollama makes of conversations is what the model's own chat template makes of them, or it is not said."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from biomistral.errors import UserError
from biomistral.merging.tokenizer import TEMPLATES
from biomistral.models.load import load_tokenizer
from biomistral.quantization.gguf.modelfile import modelfile as write
from biomistral.quantization.settings import QuantizeSettings
from biomistral.run import execute
from gguf_models import make_decoder
from go_templates import render

LLAMA2 = ("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
          "{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
          "{% set system = false %}{% endif %}{% for m in loop_messages %}"
          "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
          "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
          "{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
          "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}"
          "{% endif %}{% endfor %}")
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
         "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
         "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}")
GEMMA3 = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
          "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
          "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + (first if loop.first else '') }}"
          "{{ m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}")
SMOL = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are \"Smol\".<|im_end|>\\n' }}"
        "{% endif %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
BRACES = ("{% for m in messages %}{{ '{\"role\": {{' + m.role + '}}, \"content\": {' + m.content + '}}\\n' }}{% endfor %}"
          "{{ '{{{' if add_generation_prompt }}")
FRAMES = {**TEMPLATES, "llama2": LLAMA2, "gemma": GEMMA, "gemma3": GEMMA3, "smol": SMOL, "braces": BRACES}
"""Templates that only put text around messages."""
DATED = "{{ strftime_now('%d %B') }}" + TEMPLATES["chatml"]
COUNTED = "{% for m in messages %}{{ loop.index ~ ' ' + m.role + ': ' + m.content + '\\n' }}{% endfor %}"
FIRST = "{{ messages[0]['content'] }}"
LAST = "{{ messages[-1]['content'] }}"
LOUD = "{% for m in messages %}{{ m.role + ': ' + m.content | upper + '\\n' }}{% endfor %}"
SPACED = "{% for m in messages %}{{ m.role + '\u00a0: ' + m.content + '\\n' }}{% endfor %}"
"""A space that Ollama's reader of Modelfiles leaves out."""
QUOTES = '{% for m in messages %}{{ \'"""\' + m.content + \'"""\\n\' }}{% endfor %}'
MORE = {"dated": DATED, "counted": COUNTED, "last": LAST, "first": FIRST, "loud": LOUD, "spaced": SPACED, "triple quotes": QUOTES,
        "broken": "{% for m in messages %}{{ m.role.nothing.at_all }}{% endfor %}"}
"""Templates that do more than that, or that a Modelfile cannot hold."""
TALKS = (["user"], ["user", "assistant", "user"], ["system", "user"],
         ["system", "user", "assistant", "user", "assistant", "user"])
CONTENT = {"system": "Answer as a physician would;\nbriefly.", "user": "Is {{ E11.9 }} \"type 2\" <b>diabetes</b>?\n\nÄÖ 中文",
           "assistant": "Ja, {% so %} $i ist es: 'E11.9'."}


def with_template(folder: Path, template: str | None, adds_bos: bool) -> PreTrainedTokenizerFast:
    """Give the model's tokenizer another chat template, and on demand the token that begins every text."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    single = ["<s>", "$A"] if adds_bos else ["$A"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1)])
    tokenizer.chat_template = template
    for path in folder.glob("chat_template*"):
        path.unlink()
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("pico") / "model", "llama")


def modelfile(model: Path, out: Path, **chosen: Any) -> str:
    return (execute(QuantizeSettings(model=str(model), method="gguf:Q8_0", **chosen), out).path / "Modelfile").read_text("utf-8")


def parsed(text: str) -> list[tuple[str, str]]:
    """A Modelfile's instructions as Ollama reads them: quotes, single or triple, with nothing escaped between them."""
    found = re.findall(r'^(PARAMETER \w+|[A-Z]+) (?:"""(.*?)"""|"([^"\n]*)"|([^"\n]*))$', text, re.MULTILINE | re.DOTALL)
    return [(name, triple or single or plain) for name, triple, single, plain in found]


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", FRAMES)
def test_ollama_sees_what_the_model_s_own_template_makes(tmp_path: Path, model: Path, name: str, adds_bos: bool) -> None:
    tokenizer = with_template(model, FRAMES[name], adds_bos)
    said = dict(parsed(modelfile(model, tmp_path / "made")))
    assert said["FROM"] == "./model-Q8_0.gguf"
    for roles in TALKS:
        chat = [{"role": role, "content": f"{CONTENT[role]} {number}"} for number, role in enumerate(roles)]
        if name == "gemma" and "system" in roles:
            continue
        expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert render(said["TEMPLATE"], chat) == (expected.removeprefix("<s>") if adds_bos else expected), roles


@pytest.mark.parametrize("name", MORE)
def test_what_a_frame_is_not_enough_for_is_left_to_ollama(tmp_path: Path, model: Path, name: str) -> None:
    with_template(model, MORE[name], False)
    text = modelfile(model, tmp_path / "made")
    assert "# the model's chat template does more than put text around messages" in text
    assert "TEMPLATE" not in dict(parsed(text))
    assert load_tokenizer(tmp_path / "made").chat_template == MORE[name]


def test_templates_without_a_system_message_say_so(tmp_path: Path, model: Path) -> None:
    with_template(model, GEMMA, True)
    assert "# the model's chat template takes no system message" in modelfile(model, tmp_path / "made")


def test_a_model_without_a_template_is_given_text_as_it_is(tmp_path: Path, model: Path) -> None:
    with_template(model, None, False)
    assert dict(parsed(modelfile(model, tmp_path / "made")))["TEMPLATE"] == "{{ .Prompt }}"


def test_where_it_stops_and_how_it_samples(tmp_path: Path, model: Path) -> None:
    with_template(model, TEMPLATES["chatml"], False)
    generation = {"eos_token_id": [2, 0, 9999], "do_sample": True, "temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1,
                  "top_k": 50.0}
    path = model / "generation_config.json"
    path.write_text(json.dumps(generation))
    said = parsed(modelfile(model, tmp_path / "sampling"))
    assert [value for name, value in said if name == "PARAMETER stop"] == ["</s>", "<unk>"]
    assert {name: value for name, value in said if name.startswith("PARAMETER") and name != "PARAMETER stop"} == {
        "PARAMETER temperature": "0.2", "PARAMETER top_p": "0.9", "PARAMETER repeat_penalty": "1.1",
        "PARAMETER top_k": "50"}
    path.write_text(json.dumps({**generation, "do_sample": False, "eos_token_id": 2}))
    said = parsed(modelfile(model, tmp_path / "greedy"))
    assert [name for name, _ in said if name.startswith("PARAMETER")] == ["PARAMETER stop"]
    path.write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json: not JSON"):
        modelfile(model, tmp_path / "broken")
    path.unlink()
    assert [value for name, value in parsed(modelfile(model, tmp_path / "none")) if name == "PARAMETER stop"] == ["</s>"]


def test_licences_that_a_modelfile_can_hold(model: Path) -> None:
    tokenizer = with_template(model, None, False)
    for licence, said in (("MIT", "MIT"), ('said "so"\nhere', 'said "so"\nhere'), ('ends in "', None), ("no\u200bspace", None)):
        assert dict(parsed(write("m.gguf", tokenizer, {}, False, licence))).get("LICENSE") == said


def test_the_interpreter_of_these_tests_reads_go() -> None:
    text = ('{{ if not .System }}none {{ end }}{{ range $i, $m := .Messages }}{{ if $i }}, {{ end }}'
            '{{ if eq $m.Role "user" }}U{{ else if eq $m.Role "system" }}S{{ else }}A{{ end }}'
            '{{ if not (and $.System (eq $i 1)) }}={{ $m.Content }}{{ end }}'
            "{{ end }}")
    chat = [{"role": role, "content": f"{{{{{role}"} for role in ("system", "user", "assistant")]
    assert render(text, chat) == "S={{system, U, A={{assistant"
    assert render(text, chat[1:]) == "none U={{user, A={{assistant"
    with pytest.raises(AssertionError, match="not an operand"):
        render("{{{ $i }}", [])
