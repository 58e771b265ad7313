"""What stands around a question, in its own language: the words of the ``translated`` protocols, written once a language.

English has the words of the ``letters`` protocols. Letters, brackets and asterisks are the same in all languages.

No speaker of Arabic, Hindi, Russian or Chinese has read these. They were compared with words that others published:

- yes and no: CLDR 41 (``yesstr``, ``nostr``), glibc 2.36's locales, and Django 5.2's "yes,no,maybe". All agree with those below,
  but for Chinese, where CLDR has 确定 and 否定 ("confirm", "deny"), glibc 是 and 不是, and Django 是 and 否, which is kept here.
- maybe: Django's for Arabic and Hindi. For Russian it has может быть, for Chinese 也许; возможно and 可能 are as usual beside yes
  and no (Chinese descriptions of PubMedQA have 是/否/可能 and 是/否/也许) and are kept.
- Question and Answer: OpenCompass's MMMLU prompts for Arabic, Hindi and Chinese, lighteval's literals for Russian.
- the instruction: INCLUDE's sentence in the language, as NVIDIA's code for that benchmark has it. Hindi was put in its words
  ("के बारे में", about, was missing). Arabic calls the questions اختيار من متعدد, as quizzes in it do, and Chinese 单项选择题 (one
  right option), as CMMLU does, where INCLUDE has 多项选择题 (several).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from biomistral.errors import UserError
from biomistral.records import Question


@dataclass(frozen=True)
class Scaffold:
    """The words of one language; the last three are the options of PubMedQA where a translation left them English."""

    instruction: str
    question: str
    answer: str
    yes: str
    no: str
    maybe: str


SCAFFOLDS = {
    "en": Scaffold("The following are multiple choice questions (with answers) about medical knowledge.",
                   "Question", "Answer", "yes", "no", "maybe"),
    "ar": Scaffold("فيما يلي أسئلة اختيار من متعدد (مع الإجابات) حول المعرفة الطبية.",
                   "السؤال", "الإجابة", "نعم", "لا", "ربما"),
    "de": Scaffold("Es folgen Multiple-Choice-Fragen (mit Antworten) zu medizinischem Wissen.",
                   "Frage", "Antwort", "ja", "nein", "vielleicht"),
    "es": Scaffold("Las siguientes son preguntas de opción múltiple (con respuestas) sobre conocimientos médicos.",
                   "Pregunta", "Respuesta", "sí", "no", "tal vez"),
    "fr": Scaffold("Voici des questions à choix multiples (avec réponses) sur les connaissances médicales.",
                   "Question", "Réponse", "oui", "non", "peut-être"),
    "hi": Scaffold("निम्नलिखित चिकित्सा ज्ञान के बारे में बहुविकल्पीय प्रश्न (उत्तर सहित) हैं।",
                   "प्रश्न", "उत्तर", "हाँ", "नहीं", "शायद"),
    "it": Scaffold("Le seguenti sono domande a scelta multipla (con risposte) sulle conoscenze mediche.",
                   "Domanda", "Risposta", "sì", "no", "forse"),
    "pt": Scaffold("A seguir estão perguntas de múltipla escolha (com respostas) sobre conhecimentos médicos.",
                   "Pergunta", "Resposta", "sim", "não", "talvez"),
    "ru": Scaffold("Ниже приведены вопросы с вариантами ответов (с ответами) на знание медицины.",
                   "Вопрос", "Ответ", "да", "нет", "возможно"),
    "zh": Scaffold("以下是关于医学知识的单项选择题（附答案）。",
                   "问题", "答案", "是", "否", "可能"),
}


def scaffold_of(question: Question) -> Scaffold:
    """
    Raises:
        UserError: there are no words in the question's language.
    """
    if question.language not in SCAFFOLDS:
        raise UserError(f"question {question.id!r} is in '{question.language}': translated protocols have words in "
                        f"{', '.join(SCAFFOLDS)}; ask it with an English scaffold, e.g. --protocols letters-0shot, or leave it "
                        "out with --languages")
    return SCAFFOLDS[question.language]


def with_own_words(question: Question) -> Question:
    """The question with yes, no and maybe in its language, where they are its options, in English.

    Raises:
        UserError: see `scaffold_of`.
    """
    words = asdict(scaffold_of(question))
    options = [option.strip().casefold() for option in question.options]
    if set(options) != {"yes", "no", "maybe"}:
        return question
    return question.model_copy(update={"options": tuple(words[option] for option in options)})


def words_in(languages: Iterable[str]) -> dict[str, dict[str, str]]:
    """The words of these languages as plain data, for a protocol's definition; none named: of all."""
    wanted = tuple(languages) or tuple(SCAFFOLDS)
    return {language: asdict(words) for language, words in SCAFFOLDS.items() if language in wanted}
