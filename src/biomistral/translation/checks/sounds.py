"""How a name sounds, roughly: the same in English, its translations, and Cyrillic or Arabic letters."""

import re
import unicodedata

_CYRILLIC = str.maketrans("абвгдеёжзийклмнопрстуфхцыэ", "abvgdeejsiiklmnoprstufksie") | str.maketrans(
    {"ч": "ch", "ш": "sh", "щ": "sh", "ъ": "", "ь": "", "ю": "iu", "я": "ia"})
_ARABIC = str.maketrans("بتثجحخدذرزسصضطظغفقكلمنهپگڤک", "bttghhddrsssdtdgfkklmnhbgfk", "عاويىءئؤأإآة") | str.maketrans(
    {"ش": "sh", "چ": "ch"})
_ARABIC_LETTER = re.compile("[\u0600-\u06ff]")
_ARTICLE = re.compile(r"^(?:وال|بال|لل|ال)")
_SPELLINGS = (("sch", "sh"), ("ph", "f"), ("th", "t"), ("rh", "r"), ("ck", "k"), ("qu", "k"), ("ch", "k"), ("ae", "e"),
              ("oe", "e"), ("ce", "se"), ("ci", "si"), ("cy", "si"), ("x", "s"), ("c", "k"), ("y", "i"), ("z", "s"), ("j", "i"),
              ("w", "v"))
_TWICE = re.compile(r"(.)\1+")
_VOWELS = re.compile(r"[aeiou]")


def sound_of(word: str) -> str:
    """A word's sound in Latin letters: ``ciprofloxacin``, ``ciprofloxacino`` and its Cyrillic form begin alike."""
    text = word.casefold()
    if any("Ѐ" <= sign <= "ӿ" for sign in text):
        text = text.translate(_CYRILLIC)
    else:
        text = "".join(sign for sign in unicodedata.normalize("NFD", text) if not unicodedata.combining(sign))
        for written, said in _SPELLINGS:
            text = text.replace(written, said)
    text = text.replace("ks", "s")
    if text.startswith("h"):
        text = "g" + text[1:]
    return _TWICE.sub(r"\1", text)


def skeleton_of(word: str) -> str:
    """The consonants of a word, as Arabic writes them: ``metformin`` and its Arabic form are ``mtfrmn``."""
    if _ARABIC_LETTER.search(word):
        text = _ARTICLE.sub("", word).translate(_ARABIC).replace("ks", "s")
    else:
        text = _VOWELS.sub("", sound_of(word.casefold().replace("w", "")))
    return _TWICE.sub(r"\1", text.replace("p", "b").replace("v", "f").replace("g", "h"))
