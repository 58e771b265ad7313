"""Declared and detected languages: samples all over the text, what overrules what, and that disagreement is told."""

import pytest

from biomistral.corpus.cleaning import language
from biomistral.corpus.cleaning.language import Language, language_of, normal

ENGLISH = ("The patients with type 2 diabetes mellitus were examined during the clinical study at the hospital, and their blood "
           "pressure was measured in both groups. ")
SPANISH = ("Los pacientes con diabetes mellitus tipo 2 fueron evaluados durante el estudio clínico en el hospital, y se midió la "
           "presión arterial en ambos grupos. ")
PORTUGUESE = ("Os pacientes com diabetes mellitus tipo 2 foram avaliados durante o estudo clínico no hospital, e a pressão "
              "arterial foi medida em ambos os grupos. ")

detects = pytest.mark.skipif(not language.can_detect(), reason="the extra 'language' is not installed")


def test_language_tags() -> None:
    assert [normal(tag) for tag in ("pt-BR", "EN", "eng", "zh_Hans", "", None, "x", "12", "en us")] == [
        "pt", "en", "en", "zh", "und", "und", "und", "und", "und"]


def test_without_detection_the_declaration_is_all_there_is() -> None:
    assert language_of("fr-FR", ENGLISH * 20, detect=False) == Language("fr", "fr")
    assert language_of(None, ENGLISH * 20, detect=False) == Language("und", "und")
    assert language_of("fr", "", detect=False).agrees


@detects
def test_detected_language_overrules_a_wrong_declaration() -> None:
    for text in (SPANISH * 2, SPANISH * 100):
        found = language_of("en", text, detect=True)
        assert (found.language, found.declared, found.detected, found.agrees) == ("es", "en", "es", False)
        assert found.confidence > 0.8
        assert language_of("und", text, detect=True).language == "es"
        assert language_of("es-MX", text, detect=True).agrees


@detects
def test_a_short_text_is_what_it_declares() -> None:
    assert language_of("de", "123", detect=True) == Language("de", "de")
    assert language_of("de", "The patients were examined.", detect=True) == Language("de", "de")
    assert language_of(None, "The patients were examined.", detect=True).language == "und"


@detects
@pytest.mark.parametrize("declared", ["en", "pt"])
def test_abstracts_in_two_languages_do_not_flip(declared: str) -> None:
    for first, second in ((ENGLISH, PORTUGUESE), (PORTUGUESE, ENGLISH)):
        for share in (0.4, 0.5, 0.6):
            text = first * int(40 * share) + "\n\n" + second * int(40 * (1 - share))
            assert language_of(declared, text, detect=True).language == declared


@detects
def test_an_article_with_an_abstract_in_another_language() -> None:
    text = ENGLISH * 5 + "\n\n" + PORTUGUESE * 60
    found = language_of("en", text, detect=True)  # as an article says that declares nothing
    assert (found.language, found.agrees) == ("pt", False)
    assert language_of("pt", text, detect=True).agrees


@detects
def test_samples_keep_out_of_tables_and_of_what_is_no_language() -> None:
    table = "\n".join(f"Si0{number}m | NB-ARC | LRR | {number}.{number} | Chr{number}" for number in range(300))
    prose = "\n\n".join([ENGLISH * 2] * 8)
    assert language_of("en", f"{prose}\n\n{table}\n\n{prose}", detect=True).detected == "en"
    assert language_of("en", table, detect=True).language == "en"
    assert language_of("en", "0.05 12.3 " * 200, detect=True).language == "en"


@detects
def test_one_call_gives_what_another_gives() -> None:
    found = {language_of("en", SPANISH * 30, detect=True) for _ in range(3)}
    assert len(found) == 1
