"""The licence gate: links, types and prose to SPDX-like ids; misprints and contradictions never pass as free."""

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biomistral.corpus.articles.licences import family, identify

BY4 = "https://creativecommons.org/licenses/by/4.0/"
SPRINGER = ("Open Access This article is licensed under a Creative Commons Attribution 4.0 International License, which permits "
            "use, sharing, adaptation, distribution and reproduction in any medium or format. If material is not included in the "
            "article's Creative Commons licence, you will need to obtain permission directly from the copyright holder. The "
            "Creative Commons Public Domain Dedication waiver (http://creativecommons.org/publicdomain/zero/1.0/) applies to the "
            "data made available in this article.")
WILEY = ("This is an open access article under the terms of the Creative Commons Attribution\u2010NonCommercial\u2010NoDerivs "
         "License, which permits use and distribution in any medium, provided the original work is properly cited, the use is "
         "non\u2010commercial and no modifications or adaptations are made.")
MEDKNOW = ("This is an open access journal, and articles are distributed under the terms of the Creative Commons Attribution "
           "License, which allows others to build upon the work non-commercially, as long as the new creations are licensed "
           "under the identical terms.")


@pytest.mark.parametrize(("statements", "expected"), [
    ([BY4], "CC-BY-4.0"),
    (["http://creativecommons.org/licences/by-nc/3.0"], "CC-BY-NC-3.0"),
    (["http://creativecommons.org/licenses/BY-SA/4.0"], "CC-BY-SA-4.0"),
    (["HTTPS://WWW.CREATIVECOMMONS.ORG/LICENSES/BY/4.0/"], "CC-BY-4.0"),
    (["creativecommons.org/licenses/by/4.0/, which permits use"], "CC-BY-4.0"),
    (["(http://creativecommons.org/licenses/by/2.5)."], "CC-BY-2.5"),
    (["https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode"], "CC-BY-NC-ND-4.0"),
    (["https://creativecommons.org/licenses/by/4.0/deed.fr"], "CC-BY-4.0"),
    (["http://creativecommons. org/licenses/ by/4.0/"], "CC-BY-4.0"),
    (["http://creativecommons.org/licenses/by%2Dnc/4.0/"], "CC-BY-NC-4.0"),
    (["http://creativecommons.org/licenses/by-nd-nc/1.0/"], "CC-BY-NC-ND-1.0"),
    (["https://creativecommons.org/publicdomain/zero/1.0/"], "CC0-1.0"),
    (["http://creativecommons.org/publicdomain/mark/1.0/", "Publication of EHP lies in the public domain"], "PD"),
    (["http://creativecommons.org/licenses/publicdomain/"], "PD"),
    # ports, and versions that do not exist
    (["http://creativecommons.org/licenses/by/3.0/igo/"], "CC-BY-3.0-IGO"),
    (["https://creativecommons.org/licenses/by-nc/3.0/us/legalcode"], "CC-BY-NC-3.0-US"),
    (["http://creativecommons.org/licenses/by/2.0/uk/"], "CC-BY-2.0-UK"),
    (["https://creativecommons.org/licenses/by/4.0/de/"], "CC-BY-4.0"),
    (["Creative Commons BY 3.0 IGO"], "CC-BY-3.0-IGO"),
    (["https://creativecommons.org/licenses/by/9.0/"], "CC-BY"),
    # types
    (["creativeCommonsBy-nc"], "CC-BY-NC"), (["ccby"], "CC-BY"), (["cc-by"], "CC-BY"), (["CC_BY_NC"], "CC-BY-NC"),
    (["CC BY"], "CC-BY"), (["CC-BY 4.0"], "CC-BY-4.0"), (["cc-by-sa-3.0"], "CC-BY-SA-3.0"), (["CC0"], "CC0-1.0"),
    (["CC BY/NC/ND 4.0"], "CC-BY-NC-ND-4.0"), (["CC BY 4.0 NC"], "CC-BY-NC-4.0"), (["by-nc-sa"], "CC-BY-NC-SA"),
    # prose
    (["distributed under the terms of the Creative Commons Attribution License, which permits unrestricted use"], "CC-BY"),
    (["Creative Commons Attribution-Noncommercial-Share Alike 3.0 Unported"], "CC-BY-NC-SA-3.0"),
    (["Creative Commons Attribution\u2010NoDerivs License, CC BY\u2010ND 4.0"], "CC-BY-ND-4.0"),
    ([SPRINGER, BY4], "CC-BY-4.0"), ([SPRINGER], "CC-BY-4.0"), ([WILEY], "CC-BY-NC-ND"), ([MEDKNOW], "CC-BY-NC-SA"),
    (["This is an open-access article, free of all copyright, made available under the Creative Commons CC0 public domain "
      "dedication"], "CC0-1.0"),
    # prose in other languages
    (["Licença Creative Commons Attribution NonCommercial, sem fins comerciais"], "CC-BY-NC"),
    (["bajo una licencia Creative Commons Atribución-NoComercial-CompartirIgual 4.0"], "CC-BY-NC-SA-4.0"),
    (["Creative Commons Reconocimiento-SinObraDerivada"], "CC-BY-ND"),
    (["Lizenz: Creative Commons Namensnennung - Nicht kommerziell - Keine Bearbeitungen"], "CC-BY-NC-ND"),
    (["licence Creative Commons Paternité - Pas d'utilisation commerciale - Pas de modification"], "CC-BY-NC-ND"),
    (["Creative Commons Attribuzione - Condividi allo stesso modo"], "CC-BY-SA"),
    (["知识共享署名-非商业性使用 (Creative Commons)"], "CC-BY-NC"),
    # United States Government
    (["This work is written by US Government employees and is in the public domain in the US."], "PD-US-Gov"),
    (["This is a U.S. Government work and not under copyright protection in the US"], "PD-US-Gov"), (["us-gov"], "PD-US-Gov"),
    # a link to terms of text mining stands beside the licence
    (["https://www.springer.com/tdm", BY4], "CC-BY-4.0"),
    # one statement restricts what another one frees
    ([BY4, "open-access", "Creative Commons Attribution Non-Commercial License"], "CC-BY-NC"),
    ([BY4, "This article may not be used for commercial purposes."], "CC-BY-NC"),
    (["http://creativecommons.org/licenses/by-sa/4.0", "Creative Commons Attribution-NonCommercial 4.0"], "CC-BY-NC-SA"),
    # a waiver for the data does not free the article
    ([BY4, "The Creative Commons Public Domain Dedication waiver applies to the data of this article"], "CC-BY-4.0"),
    # both uses allowed
    (["Creative Commons Attribution-NoDerivatives License 4.0, for commercial and non-commercial use"], "CC-BY-ND-4.0"),
])
def test_identifies(statements: list[str], expected: str) -> None:
    assert identify(statements)[0] == expected


@pytest.mark.parametrize("statements", [
    [], [""], ["none"], ["open-access"], ["OpenAccess", "© 2020 The Authors"], ["All rights reserved."],
    ["http://creativecommons.org/licenses/by-ncnd/4.0/"], ["http://creativecommons.org/licenses/by-n/4.0/"],
    ["http://creativecommons.org/licenses/none/"], ["https://creativecommons.org/publicdomain/nothing/1.0"],
    ["http://creativecommons.org/licenses/by4.0/"], ["http://creativecommons.org/licenses/nc/1.0/"],
    ["Creative Commons Attribution License (http://creativecommons.org/licensesby-nc/4.0/)"],
    ["CC BY-NCND"], ["CC-BY-N"], ["CC BYX"], ["CC-NC"], ["by-ncnd", BY4], ["by-n"], ["creativecommons.org/licenses/by-by/4.0"],
    ["http://creativecommons.org/", "Creative Commons"], ["https://creativecommons.org/licenses/"],
    ["https://creativecommons.org/licenses/by-sa/4.0/", "https://creativecommons.org/licenses/by-nd/4.0/"],
    [BY4, "http://creativecommons.org/licenses/by-ncnd/4.0/"],
    ["This article is not in the public domain."], ["https://example.org/licenses/by/4.0/"],
    # a waiver for the data alone, its link beside it
    ["The Creative Commons Public Domain Dedication waiver (http://creativecommons.org/publicdomain/zero/1.0/) applies to "
     "the data",
     "http://creativecommons.org/publicdomain/zero/1.0/"],
    # publishers' own terms
    ["Elsevier hereby grants permission to make all its COVID-19-related research available with rights for unrestricted "
     "research re-use and analyses in any form or by any means with acknowledgement of the original source."],
    ["It can be used for unrestricted research re-use and analysis in any form or by any means with acknowledgement"],
    ["http://www.elsevier.com/open-access/userlicense/1.0/"], ["http://onlinelibrary.wiley.com/termsAndConditions#vor"],
    ["an ACS AuthorChoice License, which permits copying for non-commercial purposes"],
    ["licensed under the Open Government Licence v2.0 "
     "(http://www.nationalarchives.gov.uk/doc/open-government-licence/version/2/)"],
    ["This work is written by US Government employees and is in the public domain in the US.", "Open Government Licence v2.0"],
    # a contractor's work is not the government's
    ["The United States Government retains a non-exclusive, paid-up licence to publish the published form of this manuscript, "
     "for US Government purposes. The DOE will provide public access."],
    ["The sequences analysed here are in a public domain database."],
    ["CC BY " + "the cc0 waiver " * 5000],  # a statement of 75,000 characters
])
def test_refuses_what_is_not_certain(statements: list[str]) -> None:
    found, _ = identify(statements)
    assert found == "unknown"
    assert family(found) is None


@given(st.sets(st.sampled_from(["nc", "nd", "sa"]), max_size=3), st.permutations(["open-access", "© 2020", "Springer", BY4]))
@settings(max_examples=60, deadline=None)
def test_no_order_of_statements_and_parts_loses_a_restriction(asked: set[str], others: list[str]) -> None:
    possible = asked != {"nd", "sa"} and len(asked) < 3
    for parts in itertools.permutations(asked):
        link = "http://creativecommons.org/licenses/" + "-".join(("by", *parts))
        expected = "-".join(["CC-BY", *(part.upper() for part in ("nc", "nd", "sa") if part in asked)]) if possible else "unknown"
        assert identify([*others, link])[0].removesuffix("-4.0") == expected


@given(st.text(alphabet="cbyndsa0 -/.4", max_size=14))
@example("by 0")
@settings(max_examples=300, deadline=None)
def test_a_misprinted_code_is_a_code_of_by_nc_nd_sa_or_unknown(code: str) -> None:
    """Whatever letters stand in the link: a licence is found only if the code is made of the four parts alone."""
    found, _ = identify([f"https://creativecommons.org/licenses/{code}"])
    # a space that follows no slash ends the link, what comes then is a word; but a part of a code belongs to it
    link = re.split(r"(?<=[^/]) (?!(?:nc|nd|sa)(?![a-z]))", "/" + code)[0]
    first = link.replace(" ", "").lstrip("/").partition("/")[0].rstrip(".")
    if family(found) is not None:
        assert set(first.split("-")) <= {"by", "nc", "nd", "sa"}
        assert "by" in first.split("-")


@pytest.mark.parametrize("code", ["by nc", "by nc/4.0", "by-nc nd/4.0", "by nd/3.0/us"])
def test_a_space_for_a_hyphen_frees_nothing(code: str) -> None:
    assert identify([f"https://creativecommons.org/licenses/{code}"])[0] == "unknown"


def test_families() -> None:
    assert [family(name) for name in ("CC0-1.0", "PD-US-Gov", "PD", "CC-BY-4.0", "CC-BY", "CC-BY-NC-ND-3.0", "CC-BY-SA-4.0",
                                      "CC-BY-3.0-IGO", "CC-BY-NC-2.0-UK")] == [
        "cc0", "cc0", "cc0", "cc-by", "cc-by", "cc-by-nc-nd", "cc-by-sa", "cc-by", "cc-by-nc"]
    assert [family(name) for name in ("CC-BY-NCND-4.0", "CC-BY-N", "", "MIT", "CC-BY-4.0-NC", "CC-BY-ND-SA")] == [None] * 6


def test_ids_stand_for_themselves() -> None:
    for name in ("CC-BY-4.0", "CC-BY-3.0-IGO", "CC0-1.0", "PD-US-Gov", "PD", "CC-BY-NC-SA-2.0-UK"):
        assert identify([name])[0] == name
    assert identify(["cc-by-4.0"])[0] == "CC-BY-4.0"
