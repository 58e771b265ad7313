"""Checks of a translation: twenty questions in four scripts are sound, and every kind of fault is found and named."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.translation.checks.every import find_faults
from biomistral.translation.checks.languages import FUNCTION_WORDS
from biomistral.translation.checks.numbers import quantities
from biomistral.translation.checks.sounds import skeleton_of, sound_of
from biomistral.translation.fields import Fields

NAMES = ("stem", "A", "B", "C", "D")
LANGUAGES = ("es", "ru", "ar", "zh")
ROWS = {row["id"]: row for row in map(json.loads, (Path(__file__).parent / "translated_items.jsonl").read_text(
    encoding="utf-8").splitlines())}


def item(name: str, language: str) -> Fields:
    return dict(zip(NAMES, ROWS[name][language], strict=True))


def checks(name: str, language: str, changed: Fields, back: Fields | None = None) -> set[str]:
    """The checks that speak when texts of a sound translation are changed."""
    faults = find_faults(item(name, "en"), item(name, language) | changed, language, back)
    assert all(fault.field in NAMES and fault.detail and "\n" not in fault.detail for fault in faults)
    return {fault.check for fault in faults}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ROWS)
def test_sound_items_are_sound_and_so_are_they_with_their_source_as_translation_back(name: str, language: str) -> None:
    assert find_faults(item(name, "en"), item(name, language), language) == []
    assert find_faults(item(name, "en"), item(name, language), language, item(name, "en")) == []


def changed(name: str, language: str, field: str, old: str, new: str) -> set[str]:
    text = item(name, language)[field]
    assert old in text
    return checks(name, language, {field: text.replace(old, new)})


@pytest.mark.parametrize(("name", "language", "field", "old", "new", "check"), [
    ("dose", "es", "stem", "500 mg", "50 mg", "number"), ("dose", "zh", "stem", "500毫克", "500克", "unit"),
    ("dose", "ru", "stem", "500 мг", "500 г", "unit"), ("dose", "ar", "stem", "81 ملغ", "81 غ", "unit"),
    ("cardiac", "es", "stem", "2,5 ng", "25 ng", "number"), ("percent", "ar", "A", "٢٫٥", "٢٥", "number"),
    ("percent", "es", "stem", "1.250", "1.205", "number"), ("fever", "es", "stem", "39,5 °C", "39,5 °F", "unit"),
    ("gene", "zh", "stem", "BRCA1", "BRCA2", "name"), ("hiv", "es", "stem", "VIH-1", "VIH-2", "name"),
    ("vitamin", "ru", "stem", "B12", "B6", "name"), ("interleukin", "ru", "A", "ИЛ-6", "ИЛ-8", "name"),
    ("dose", "ar", "A", "الميتفورمين", "الميتوبرولول", "drug"), ("warfarin", "zh", "A", "胺碘酮", "腺苷", "drug"),
    ("warfarin", "ru", "A", "Амиодарон", "Аденозин", "drug"), ("warfarin", "es", "C", "Fenitoína", "Fluoxetina", "drug"),
    ("except", "es", "stem", " EXCEPTO", ":", "negation"), ("except", "ru", "stem", ", КРОМЕ", ":", "negation"),
    ("hiv", "ar", "stem", " ليست ضرورية", " ضرورية", "negation"),
    ("pregnancy", "zh", "stem", "绝不能使用", "必须使用", "negation"),
    ("anatomy", "es", "stem", "es el principal", "no es el principal", "negation"),
    ("skin", "zh", "stem", "含有", "不含有", "negation"), ("skin", "ru", "stem", "содержит", "не содержит", "negation"),
    ("gene", "es", "B", "Cáncer de pulmón", "Cáncer de mama.", "duplicate"), ("gene", "ru", "C", "Рак кожи", "—", "empty"),
    ("blank", "zh", "stem", "_____", "", "placeholder"), ("gene", "ru", "stem", "Риск", "**Риск**", "markup"),
    ("gene", "ar", "A", "سرطان", "A) سرطان", "markup"), ("skin", "es", "A", "Estrato", "Estrato&nbsp;", "markup"),
    ("gene", "es", "D", "colon", "colon" + " de colon" * 9, "repetition"),
    ("gene", "zh", "D", "癌", "癌结肠" * 8, "repetition"),
])
def test_a_small_change_is_found_and_named(name: str, language: str, field: str, old: str, new: str, check: str) -> None:
    assert check in changed(name, language, field, old, new)


@pytest.mark.parametrize(("language", "words"), [
    ("es", "Lo siento, como modelo de lenguaje no puedo traducir esto."), ("ru", "Извините, я не могу перевести этот текст."),
    ("ar", "عذرًا، كنموذج لغوي لا أستطيع ترجمة هذا النص."), ("zh", "抱歉，作为一个人工智能语言模型，我无法翻译。")])
def test_an_engine_that_speaks_of_itself(language: str, words: str) -> None:
    assert "refusal" in checks("gene", language, {"stem": words})
    assert "refusal" in checks("gene", language, {"stem": "I'm sorry, but I cannot translate medical content."})


@pytest.mark.parametrize("language", LANGUAGES)
def test_english_that_stayed(language: str) -> None:
    english = item("cardiac", "en")["stem"]
    half = english[:len(english) // 2] + item("cardiac", language)["stem"][len(item("cardiac", language)["stem"]) // 2:]
    assert "untranslated" in checks("cardiac", language, {"stem": english})
    assert "untranslated" in checks("cardiac", language, {"stem": half})


def test_another_language_of_the_same_script_and_of_another() -> None:
    portuguese = "Qual é a causa mais frequente da doença em crianças e em adultos do hospital?"
    assert "language" in checks("organism", "es", {"stem": portuguese})
    assert "script" in checks("organism", "es", {"stem": item("organism", "ru")["stem"]})
    assert "script" in checks("organism", "zh", {"stem": item("organism", "ar")["stem"]})


def test_names_and_formulas_may_stay_as_they_are() -> None:
    assert checks("organism", "zh", {"A": "Staphylococcus aureus", "B": "Escherichia coli"}) == set()
    assert checks("interleukin", "ru", {"A": "IL-6"}) == set()


def test_texts_that_are_cut_off_or_go_on() -> None:
    stem = item("dose", "es")["stem"]
    assert "length" in checks("dose", "es", {"stem": stem[:20]})
    assert "length" in checks("dose", "es", {"stem": " ".join([stem, *item("dose", "es").values()] * 2)})


def test_a_text_that_is_not_there_is_all_that_is_said() -> None:
    source, said = item("gene", "en"), item("gene", "es")
    del said["C"]
    assert [(fault.check, fault.field) for fault in find_faults(source, said, "es")] == [("missing", "C")]
    assert [fault.check for fault in find_faults(source, said | {"C": "Cáncer de piel", "E": "?"}, "es")] == ["missing"]


def test_options_that_changed_places_are_seen_in_the_translation_back_or_in_words_alike() -> None:
    source, russian, spanish = item("anatomy", "en"), item("anatomy", "ru"), item("anatomy", "es")
    crossed = {"A": russian["B"], "B": russian["A"]}
    assert checks("anatomy", "ru", crossed) == set()  # nothing tells
    assert "order" in checks("anatomy", "ru", crossed, source | {"A": source["B"], "B": source["A"]})
    assert "order" in checks("anatomy", "es", {"A": spanish["B"], "B": spanish["A"]})


def test_a_text_that_comes_back_as_another() -> None:
    source = item("cardiac", "en")
    assert "back-translation" in checks("cardiac", "zh", {}, source | {"stem": "Which bone is the longest of the human body?"})
    reworded = source["stem"].replace("crushing", "severe").replace("most likely", "likeliest")
    assert checks("cardiac", "zh", {}, source | {"stem": reworded, "D": "Inflammation"}) == set()


def test_numbers_in_any_writing() -> None:
    def values(text: str, english: bool = False) -> list[set[float]]:
        return [set(one.values) for one in quantities(text, english)]

    assert values("1,250 patients, 12.5%", english=True) == [{1250}, {12.5}]
    assert values("1.250 pacientes, 12,5 %") == [{1250, 1.25}, {12.5}]
    assert values("1 250 пациентов") == [{1250}]
    assert values("١٬٢٥٠ و ١٢٫٥") == [{1250}, {12.5}]
    assert values("1万人、3.5亿") == [{10000}, {3.5e8}]
    assert values("0,125 g") == [{0.125}]
    assert values("P < .05", english=True) == values("P < 0,05") == [{0.05}]
    assert [one.unit for one in quantities("5 mg, 5 mg/dL, 90 mmHg, 90 мм рт. ст., 20 %, 37 °C, 3 patients")] == [
        "mg", "mg", "mmHg", "mmHg", "%", "°C", ""]


def test_small_numbers_may_be_spelled_out() -> None:
    assert checks("seizure", "es", {"stem": item("seizure", "es")["stem"].replace("2 minutos", "dos minutos")}) == set()
    assert checks("seizure", "zh", {"stem": item("seizure", "zh")["stem"].replace("2分钟", "两分钟")}) == set()
    assert "number" in checks("seizure", "es", {"stem": item("seizure", "es")["stem"].replace("2 minutos", "tres minutos")})


@pytest.mark.parametrize(("english", "other"), [
    ("ciprofloxacin", "ципрофлоксацин"), ("heparin", "гепарин"), ("hydrochlorothiazide", "hidroclorotiazida"),
    ("phenytoin", "fenitoína"), ("oxytocin", "ocitocina"), ("methotrexate", "метотрексат"), ("cephalexin", "цефалексин")])
def test_drugs_sound_alike_in_latin_and_cyrillic(english: str, other: str) -> None:
    assert sound_of(english)[:5] == sound_of(other)[:5] or sound_of(english)[1:5] == sound_of(other)[:4]


@pytest.mark.parametrize(("english", "other"), [
    ("metformin", "الميتفورمين"), ("aspirin", "أسبرين"), ("warfarin", "الوارفارين"), ("digoxin", "ديجوكسين"),
    ("lisinopril", "ليزينوبريل")])
def test_drugs_have_the_consonants_of_their_arabic_names(english: str, other: str) -> None:
    assert skeleton_of(english)[:3] == skeleton_of(other)[:3]


TEXTS = st.dictionaries(st.sampled_from(NAMES), st.text(max_size=80), min_size=1)


@given(source=TEXTS, translated=TEXTS, back=st.none() | TEXTS,
       language=st.sampled_from([*FUNCTION_WORDS, "ru", "ar", "zh", "xx"]))
def test_any_text_is_judged_without_an_error(source: Fields, translated: Fields, back: Fields | None, language: str) -> None:
    for fault in find_faults(source, translated, language, back):
        assert fault.field in NAMES


def test_a_long_text_takes_no_time_that_grows_with_its_square() -> None:
    long = dict.fromkeys(NAMES, "pneumonoultramicroscopicsilicovolcanoconiosis " * 400 + "a" * 20000 + " -/" * 5000)
    assert "untranslated" not in {fault.check for fault in find_faults(long, long, "es")}


def test_amounts_of_money_comparisons_and_names_of_societies_are_no_faults() -> None:
    source = {"stem": "The Acute Physiology and Chronic Health Evaluation of those <70 and >80 years cost $15 and $20."}
    said = {"stem": "La Acute Physiology and Chronic Health Evaluation de los de <70 y >80 años costó $15 y $20."}
    assert find_faults(source, said, "es") == []


@pytest.mark.parametrize(("english", "spanish"), [
    ("Metastasis to the liver and small intestine", "Metástasis hepática e intestino delgado afectado"),
    ("Two or three canal openings without visible connections", "Dos o tres aperturas de canal sin conexiones visibles"),
    ("Blocking conductance of Na+ from exterior to interior", "Bloqueo de conductancia de Na+ de exterior a interior"),
    ("All of these can be seen except:", "Pueden verse todos estos, exceptuando:"),
    ("Ratio of no. of deaths to births", "Proporción del número de muertes y nacimientos"),
    ("It can be used safely", "Puede utilizarse sin peligro"),
    ("Olanzapine-fluoxetine combination", "Combinación olanzapina-fluoxetina"),
    ("LDL-cholesterol of 130 mg/dL", "Colesterol-LDL de 130 mg/dL"),
    ("Alpha-1 agonist of CD15-positive cells", "Agonista alfa-1 de células positivas para CD15"),
    ("5.5 million/mm3 and 800 cells/mm3", "5,5 millones/mm3 y 800 células/mm3"),
    ("Glucose-6-phosphatase", "Glucosa-6-fosfatasa"), ("20-40 μ", "20-40 μ"),
    ("A cost of £30\u2009000/QALY", "Un coste de 30 000 £/QALY"), ("A cost of 30\u00a0000", "Un coste de 30\u202f000"),
])
def test_short_texts_that_are_sound(english: str, spanish: str) -> None:
    assert find_faults({"A": english}, {"A": spanish}, "es") == []


@pytest.mark.parametrize(("english", "spanish", "check"), [
    ("Multiple endocrine neoplasia 2A", "Neoplasia endocrina múltiple 2Un", "name"),
    ("A 50 kg adult", "Un 50 adulto de kg", "unit"),
    ("Ratio of no. of deaths, not of births", "Proporción de muertes", "negation"),
    ("CD4+T-lymphocyte count", "Recuento de linfocitos T", "name"),
])
def test_short_texts_that_are_not(english: str, spanish: str, check: str) -> None:
    assert check in {fault.check for fault in find_faults({"A": english}, {"A": spanish}, "es")}
