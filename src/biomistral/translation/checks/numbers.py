"""Numbers and their units: a dose that changed is worse than no translation."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from biomistral.translation.checks.units import SPELLED, unit_of
from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_NUMBER = re.compile(r"\d+(?:(?:[.,'’٫٬]|(?<=\d)[ \u00a0\u2009\u202f](?=\d{3}(?!\d)))\d+)*")
_GROUPED = re.compile(r"\d{1,3}(?:([.,'’٬ \u00a0\u2009\u202f])\d{3})(?:\1\d{3})*(?:[.,٫]\d+)?$")
_FOREIGN_DIGIT = re.compile(r"[^\D0-9]")
_LARGE = {"万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8, "千": 1e3, "百": 1e2}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "01234567890123456789")
_BARE_POINT = re.compile(r"(?<![\w.,])([.,٫])(?=\d)")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉½¼¾⅓⅔]")
_FRACTIONS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_WORDS = {
    "en": "zero|one,first,once,single|two,second,twice,both,double,twin|three,third,triple|four,fourth,quarter|five,fifth|six,"
          "sixth|seven,seventh|eight,eighth|nine,ninth|ten,tenth|eleven,eleventh|twelve,twelfth",
    "fr": "zéro|un,une,premier,première,premiers|deux,deuxième,second,seconde,double|trois,troisième,triple|quatre,quatrième|"
          "cinq,cinquième|six,sixième|sept,septième|huit,huitième|neuf,neuvième|dix,dixième|onze|douze",
    "de": "null|ein,eine,einen,einem,einer,eines,eins,erste,ersten,erster,einmal|zwei,zweite,zweiten,zweimal,beide,beiden,"
          "doppelt|drei,dritte,dritten,dreimal,dritter|vier,vierte,vierten|fünf,fünfte,fünften|sechs,sechste|sieben,siebte|acht,"
          "achte|neun,neunte|zehn,zehnte|elf|zwölf",
    "es": "cero|un,uno,una,primer,primero,primera|dos,segundo,segunda,doble|tres,tercer,tercero,tercera,triple|cuatro,cuarto,"
          "cuarta|cinco,quinto,quinta|seis,sexto,sexta|siete,séptimo,séptima|ocho,octavo,octava|nueve,noveno|diez,décimo|once|doce",
    "pt": "zero|um,uma,primeiro,primeira|dois,duas,segundo,segunda,dupla|três,terceiro,terceira,triplo|quatro,quarto,quarta|"
          "cinco,quinto,quinta|seis,sexto,sexta|sete,sétimo,sétima|oito,oitavo|nove,nono|dez,décimo|onze|doze",
    "it": "zero|un,uno,una,primo,prima|due,secondo,seconda,doppio|tre,terzo,terza|quattro,quarto,quarta|cinque,quinto|sei,sesto|"
          "sette,settimo|otto,ottavo|nove,nono|dieci,decimo|undici|dodici",
    "ru": "ноль,нуль|один,одна,одно,одного,одной,первый,первая,первой,первого|два,две,двух,второй,вторая,второго,дважды|три,трех,"
          "трёх,третий,третья,третьего|четыре,четырех,четырёх,четвертый,четвёртый|пять,пяти,пятый|шесть,шести,шестой|семь,семи,"
          "седьмой|восемь,восьми,восьмой|девять,девяти,девятый|десять,десяти,десятый|одиннадцать|двенадцать",
    "ar": "صفر|واحد,واحدة,أول,الأول,الأولى,مرة|اثنان,اثنين,اثنتين,ثاني,الثاني,الثانية,مرتين,يومين,أسبوعين,شهرين,سنتين,عامين,"
          "ساعتين|ثلاث,ثلاثة,الثالث,الثالثة|أربع,أربعة,الرابع,الرابعة|خمس,خمسة,الخامس|ست,ستة,السادس|سبع,سبعة,السابع|ثمان,"
          "ثمانية,ثماني,الثامن|تسع,تسعة|عشر,عشرة|أحد|اثنا",
    "zh": "零|一|二,两,双|三|四|五|六|七|八|九|十|十一|十二",
}
_SPELLED = {language: [frozenset(one.split(",")) for one in words.split("|")] for language, words in _WORDS.items()}
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Quantity:
    """A number as it is written, what it may mean (a point or a comma is read both ways), and its unit ("": none known)."""

    text: str
    values: frozenset[float]
    unit: str
    spelled: bool


def quantities(text: str, english: bool = False) -> list[Quantity]:
    """The numbers of a text, in any digits; ``english``: a comma groups thousands, a point begins decimals."""
    plain = _plain(text)
    found = []
    for match in _NUMBER.finditer(plain):
        after = plain[match.end():match.end() + 24]
        scale = next((_LARGE[sign] for sign in after.lstrip()[:1] if sign in _LARGE), 1.0)
        values = frozenset(value * scale for value in _values(match[0], english))
        found.append(Quantity(match[0], values, unit_of(after), bool(SPELLED.match(after))))
    return found


def _plain(text: str) -> str:
    if _RAISED.search(text):
        for sign, written in _FRACTIONS.items():
            text = text.replace(sign, f" {written}")
        text = re.sub(r"(?<=\d)(?=[⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉])", "^", text).translate(_SUPERSCRIPTS)
    text = _BARE_POINT.sub(r"0\1", text)
    return text if text.isascii() else _FOREIGN_DIGIT.sub(lambda match: str(unicodedata.digit(match[0])), text)


def _values(text: str, english: bool) -> set[float]:
    """What a written number may mean."""
    grouped = _GROUPED.fullmatch(text) and not text.startswith("0")
    separators = [sign for sign in text if not sign.isdigit()]
    values = set()
    if grouped and not (english and separators[0] == "."):
        whole, decimals = text, ""
        if len(set(separators)) > 1:
            whole, decimals = text[:-len(re.split(r"[.,٫]", text)[-1]) - 1], re.split(r"[.,٫]", text)[-1]
        values.add(float(re.sub(r"\D", "", whole) + ("." + decimals if decimals else "")))
    if len(separators) <= 1 and set(separators) <= set(".,٫") and not (english and grouped and separators == [","]):
        values.add(float(re.sub(r"\D", ".", text)))
    if separators and not values:  # a date, a version, an address: its parts
        values.add(float(re.sub(r"\D", "", text)))
    return values


def changed_numbers(source: Fields, translated: Fields, language: str, source_language: str = "en") -> Iterator[Reason]:
    """Numbers that are lost, new or different; up to twelve they may be spelled out, or no longer be."""
    for name, text in translated.items():
        before, after = quantities(source[name], source_language == "en"), quantities(text)
        left = list(after)
        lost = []
        for one in before:
            twin = next((other for other in left if one.values & other.values), None)
            if twin is None:
                lost.append(one)
                continue
            left.remove(twin)
            if one.unit and (not (twin.unit or twin.spelled) or (twin.unit and twin.unit != one.unit)):
                yield Reason("unit", name, f"{one.text} {one.unit} in the source, {twin.text} {twin.unit or 'without it'} in the "
                             "translation")
        if gone := [one.text for one in lost if not _in_words(one, text, language)]:
            yield Reason("number", name, f"{gone[0]} of the source is not in the translation")
        if new := [one.text for one in left if not _in_words(one, source[name], source_language)]:
            yield Reason("number", name, f"{new[0]} is not in the source")


def _in_words(number: Quantity, text: str, language: str) -> bool:
    """Whether a small number is spelled out in a text."""
    words = _SPELLED.get(language)
    (value,) = number.values if len(number.values) == 1 else (None,)
    if words is None or value is None or value != int(value) or value >= len(words):
        return False
    if language == "zh":
        return any(word in text for word in words[int(value)])
    return any(word in words[int(value)] for word in _LETTERS.findall(text.lower()))

