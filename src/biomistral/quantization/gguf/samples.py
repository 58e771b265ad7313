"""Texts that tell two tokenizers apart: both must give the same ids for them, or the difference is said."""

from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError

TEXTS = (
    "The patient was given aspirin 100 mg daily (E11.9, I10); HbA1c fell from 8.4% to 6.9%.",
    "don't I'LL we've O'Neill's 'RE said \"quoted\" -- non-small-cell: a_b, x=y+1; [12] <tag/> https://a.b/c?d=e&f#g",
    "1 12 123 1234 12345 1,234.5 3.14e-10 2024-01-31 ½ ²H ٣٤ Ⅳ", "tabs\tand\n\nlines\r\n  of  several   spaces    each \n \n",
    "Ça été évalué à l'hôpital : œdème, naïveté, français. Größe, Übelkeit, Straße. ¿Dónde está el niño?",
    "Пациент принимал метформин. Ο ασθενής έλαβε φάρμακο. החולה קיבל תרופה. تم إعطاء المريض الدواء.",
    "患者接受了阿司匹林治疗。患者は薬を服用しました。환자는 약을 복용했습니다. ผู้ป่วยได้รับยา मरीज को दवा दी गई।",
    "🩺💊 😷\u200d🌫️ 👩🏽\u200d⚕️ ∑∫≤±µβ₂ → ℃ ㎎ “—” … \u00a0\u3000\ufeff\u200b 𝛼𝓑 𐍈",
    "ALLCAPS CamelCaseWord snake_case_word aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa =========== ...... !!!! \\n {}()[]",
)
"""Prose, numbers, white space, scripts, emoji, code: these must come out the same."""

EDGES = {
    "texts that begin with a space": "  two spaces first",
    "text after a special token": "{special}text {special} text",
    "text that is not in Unicode's form NFC": "e\u0301te\u0301 A\u030a",
}
"""What GGUF has no words for in some tokenizers, by its name: there a difference is reported, not refused."""


def differences(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, where: object) -> list[str]:
    """Names of the `EDGES` at which ``other``, read back from a file, gives other ids than the tokenizer written into it.

    Raises:
        UserError: it gives other ids for one of the `TEXTS`.
    """
    for text in TEXTS:
        ours, theirs = tokenizer(text).input_ids, other(text).input_ids
        if ours != theirs:
            place = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
            raise UserError(f"{where}: read back from GGUF, its tokenizer gives other ids for {text!r}: from token {place} on "
                            f"{theirs[place:place + 4]} for {ours[place:place + 4]}; GGUF cannot say it, choose another --method")
    special = next((token for token in (tokenizer.bos_token, tokenizer.eos_token) if token), "")
    texts = {name: text.replace("{special}", special) for name, text in EDGES.items()}
    return [name for name, text in texts.items() if tokenizer(text).input_ids != other(text).input_ids]
