"""Prompts to the letter, written out by hand; shots as functions of seed, task and set."""

import pytest

from biomistral.errors import UserError
from biomistral.records import Question
from biomistral.scoring.prompts import PROTOCOLS, build_messages, build_prompt, choose_shots, cloze_continuations
from biomistral.scoring.scaffold import SCAFFOLDS, with_own_words

FEVER = Question(id="q1", task="anatomy", stem="  Where is the\npulse felt? ", options=("wrist ", "hair"), answer="A")
HEART = Question(id="s1", task="anatomy", stem="What beats?", options=("heart", "bone"), answer="A", split="dev")
LUNG = Question(id="s2", task="anatomy", stem="What breathes?", options=("bone", "lung"), answer="B", split="dev")
PUBMED = Question(id="p1", task="pubmedqa", stem="Does it help?", options=("yes", "no", "maybe"), answer="C",
                  context="We asked. We saw.")


def test_letters_zero_shot():
    assert build_prompt(FEVER, [], PROTOCOLS["letters-0shot"]) == (
        "The following are multiple choice questions (with answers) about medical knowledge. \n **Question:** Where is the\n"
        "pulse felt? \n (A) wrist \n (B) hair \n **Answer:**(")


def test_letters_with_shots_and_no_closing_bracket():
    assert build_prompt(FEVER, [HEART, LUNG], PROTOCOLS["letters-3shot"]) == (
        "The following are multiple choice questions (with answers) about medical knowledge."
        " \n **Question:** What beats? \n (A) heart \n (B) bone \n **Answer:**(A"
        " \n **Question:** What breathes? \n (A) bone \n (B) lung \n **Answer:**(B"
        " \n **Question:** Where is the\npulse felt? \n (A) wrist \n (B) hair \n **Answer:**(")


def test_letters_with_context():
    assert build_prompt(PUBMED, [], PROTOCOLS["letters-0shot"]) == (
        "The following are multiple choice questions (with answers) about medical knowledge. \n We asked. We saw. \n "
        "**Question:** Does it help? \n (A) yes \n (B) no \n (C) maybe \n **Answer:**(")


ASKED = {
    "en": "The following are multiple choice questions (with answers) about medical knowledge. \n **Question:** {} "
          "**Answer:**(",
    "ar": "فيما يلي أسئلة اختيار من متعدد (مع الإجابات) حول المعرفة الطبية. \n **السؤال:** {} **الإجابة:**(",
    "de": "Es folgen Multiple-Choice-Fragen (mit Antworten) zu medizinischem Wissen. \n **Frage:** {} **Antwort:**(",
    "es": "Las siguientes son preguntas de opción múltiple (con respuestas) sobre conocimientos médicos. \n **Pregunta:** {} "
          "**Respuesta:**(",
    "fr": "Voici des questions à choix multiples (avec réponses) sur les connaissances médicales. \n **Question:** {} "
          "**Réponse:**(",
    "hi": "निम्नलिखित चिकित्सा ज्ञान के बारे में बहुविकल्पीय प्रश्न (उत्तर सहित) हैं। \n **प्रश्न:** {} "
          "**उत्तर:**(",
    "it": "Le seguenti sono domande a scelta multipla (con risposte) sulle conoscenze mediche. \n **Domanda:** {} **Risposta:**(",
    "pt": "A seguir estão perguntas de múltipla escolha (com respostas) sobre conhecimentos médicos. \n **Pergunta:** {} "
          "**Resposta:**(",
    "ru": "Ниже приведены вопросы с вариантами ответов (с ответами) на знание медицины. \n **Вопрос:** {} **Ответ:**(",
    "zh": "以下是关于医学知识的单项选择题（附答案）。 \n **问题:** {} **答案:**(",
}
YES_NO_MAYBE = {"en": "yes no maybe", "ar": "نعم لا ربما", "de": "ja nein vielleicht", "fr": "oui non peut-être",
                "zh": "是 否 可能", "hi": "हाँ नहीं शायद", "it": "sì no forse", "pt": "sim não talvez", "ru": "да нет возможно"}


@pytest.mark.parametrize("language", SCAFFOLDS)
def test_translated_scaffolds(language):
    """English is the published prompt to the letter; a change of any word changes what results compare with."""
    protocol = PROTOCOLS["translated-3shot"]
    question, shot = (one.model_copy(update={"language": language}) for one in (FEVER, HEART))
    head, _, tail = ASKED[language].partition("{}")
    begin, marker = head.split(" \n ")
    assert build_prompt(question, [shot], protocol) == (
        f"{begin} \n {marker}What beats? \n (A) heart \n (B) bone \n{tail}A"
        f" \n {marker}Where is the\npulse felt? \n (A) wrist \n (B) hair \n{tail}")
    if language == "en":
        assert build_prompt(question, [shot], protocol) == build_prompt(question, [shot], PROTOCOLS["letters-3shot"])
    own = with_own_words(PUBMED.model_copy(update={"language": language, "options": ("Yes", "no ", "maybe")}))
    if language in YES_NO_MAYBE:
        assert own.options == tuple(YES_NO_MAYBE[language].split(" "))
    assert with_own_words(question) == question
    definition = protocol.definition([language])
    assert list(definition["scaffold"]) == [language]
    assert definition["instruction"] == ""


def test_a_language_without_words_is_refused():
    with pytest.raises(UserError, match=r"'q1' is in 'sw': translated protocols have words in en, ar, .*--languages$"):
        build_prompt(FEVER.model_copy(update={"language": "sw"}), [], PROTOCOLS["translated-0shot"])


def test_medconceptsqa():
    assert build_prompt(FEVER, [], PROTOCOLS["medconceptsqa-0shot"]) == (
        "Answer A,B,C,D according to the answer to this multiple choice question.\n"
        "Where is the\npulse felt?\nA. wrist\nB. hair\nAnswer:")
    assert build_prompt(FEVER, [HEART, LUNG], PROTOCOLS["medconceptsqa-4shot"]) == (
        "Answer A,B,C,D according to the answer to this multiple choice question.\n"
        "What beats?\nA. heart\nB. bone\nAnswer:A\n\n"
        "What breathes?\nA. bone\nB. lung\nAnswer:B\n\n"
        "Where is the\npulse felt?\nA. wrist\nB. hair\nAnswer:")


def test_cloze_shows_no_letters():
    assert build_prompt(FEVER, [], PROTOCOLS["cloze-sum"]) == "Where is the\npulse felt?\nAnswer:"
    assert build_prompt(PUBMED, [], PROTOCOLS["cloze-mean"]) == "We asked. We saw.\nDoes it help?\nAnswer:"
    assert cloze_continuations(FEVER) == [" wrist", " hair"]


def test_the_truthful_prompt_says_so():
    assert build_prompt(FEVER, [], PROTOCOLS["truthful-0shot"]) == (
        "The following are multiple choice questions (with answers) that test whether an answer is truthful."
        " \n **Question:** Where is the\npulse felt? \n (A) wrist \n (B) hair \n **Answer:**(")


def test_chat_turns():
    told = "Answer the following multiple choice question about medical knowledge with the letter of the right option.\n\n"
    assert build_messages(FEVER, [HEART], PROTOCOLS["chat-3shot"]) == [
        {"role": "user", "content": told + "What beats?\nA. heart\nB. bone"}, {"role": "assistant", "content": "A"},
        {"role": "user", "content": told + "Where is the\npulse felt?\nA. wrist\nB. hair"}]


def test_truthfulqa_by_likelihood_asks_for_all_graded_answers():
    question = FEVER.model_copy(update={"meta": {"mc2": {"at the wrist": True, "in the hair": False}}})
    protocol = PROTOCOLS["truthfulqa-mc"]
    assert build_prompt(question, [], protocol) == "Q: Where is the\npulse felt?\nA:"
    assert cloze_continuations(question, protocol) == [" wrist", " hair", " at the wrist", " in the hair"]
    with pytest.raises(UserError, match=r"'q1' has no true and false answers.*suite 'truthfulqa'"):
        cloze_continuations(FEVER, protocol)


def test_what_a_definition_says_does_not_change_when_protocols_are_added():
    assert PROTOCOLS["letters-3shot"].definition() == {
        "name": "letters-3shot", "formulation": "letters", "shots": 3, "drawn": True, "score": "letter", "separator": " \n ",
        "instruction": "The following are multiple choice questions (with answers) about medical knowledge.",
        "chat_template": False}


def test_definitions_differ():
    assert len({str(protocol.definition()) for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def pool(split, count, task="anatomy", language="en"):
    return [Question(id=f"{language}-{split}-{i:02}", task=task, stem="s", options=("a", "b"), answer="A", split=split,
                     language=language) for i in range(count)]


def test_medconceptsqa_shots_are_the_first_four_of_dev():
    questions = pool("test", 2) + pool("dev", 6) + pool("dev", 4, task="other")
    found = choose_shots(questions, "anatomy", PROTOCOLS["medconceptsqa-4shot"], 0, 7, "test")
    assert [shot.id for shot in found] == ["en-dev-00", "en-dev-01", "en-dev-02", "en-dev-03"]


def test_drawn_shots_depend_on_seed_task_and_set_alone():
    questions = pool("train", 30) + pool("test", 3)

    def draw(asked, shot_set, root=0):
        return [shot.id for shot in choose_shots(asked, "anatomy", PROTOCOLS["letters-3shot"], shot_set, root, "test")]

    assert draw(questions, 0) == draw(questions[::-1], 0)
    assert len({tuple(draw(questions, shot_set)) for shot_set in range(3)}) == 3
    assert draw(questions, 0) != draw(questions, 0, root=1)
    assert len(set(draw(questions, 0))) == 3


def test_shots_never_come_from_what_is_asked_and_stay_english():
    questions = pool("dev", 5) + pool("validation", 5) + pool("dev", 5, language="fr")
    asked_dev = choose_shots(questions, "anatomy", PROTOCOLS["letters-3shot"], 0, 0, "dev")
    assert {shot.split for shot in asked_dev} == {"validation"}
    assert {shot.language for shot in choose_shots(questions, "anatomy", PROTOCOLS["letters-3shot"], 0, 0, "test")} == {"en"}


def test_too_few_shots_are_refused():
    with pytest.raises(UserError, match=r"'anatomy': medconceptsqa-4shot needs 4 shots .* has 2; "):
        choose_shots(pool("dev", 2), "anatomy", PROTOCOLS["medconceptsqa-4shot"], 0, 0, "test")
