"""The licence gate: links, types and prose to SPDX-like ids; misprints and contradictions never pass as free."""

import pytest

from biomistral.corpus.licences import family, identify

BY4 = "https://creativecommons.org/licenses/by/4.0/"


@pytest.mark.parametrize(("statements", "expected"), [
    ([BY4], "CC-BY-4.0"),
    (["http://creativecommons.org/licences/by-nc/3.0"], "CC-BY-NC-3.0"),
    (["http://creativecommons.org/licenses/BY-SA/4.0"], "CC-BY-SA-4.0"),
    (["https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode"], "CC-BY-NC-ND-4.0"),
    (["http://creativecommons.org/licenses/by-nd-nc/1.0/"], "CC-BY-NC-ND-1.0"),
    (["https://creativecommons.org/publicdomain/zero/1.0/"], "CC0-1.0"),
    (["http://creativecommons.org/publicdomain/mark/1.0/", "Publication of EHP lies in the public domain"], "PD"),
    (["creativeCommonsBy-nc"], "CC-BY-NC"),
    (["CC BY"], "CC-BY"), (["CC-BY 4.0"], "CC-BY-4.0"), (["cc-by-sa-3.0"], "CC-BY-SA-3.0"), (["CC0"], "CC0-1.0"),
    (["distributed under the terms of the Creative Commons Attribution License, which permits unrestricted use"], "CC-BY"),
    (["Creative Commons Attribution-Noncommercial-Share Alike 3.0 Unported"], "CC-BY-NC-SA-3.0"),
    (["Creative Commons Attribution\u2010NoDerivs License, CC BY\u2010ND 4.0"], "CC-BY-ND-4.0"),
    (["This work is written by US Government employees and is in the public domain in the US."], "PD-US-Gov"),
    # one statement restricts what another one frees
    ([BY4, "open-access", "Creative Commons Attribution Non-Commercial License"], "CC-BY-NC"),
    # a waiver for the data does not free the article
    ([BY4, "The Creative Commons Public Domain Dedication waiver applies to the data of this article"], "CC-BY-4.0"),
    # both uses allowed
    (["Creative Commons Attribution-NoDerivatives License 4.0, for commercial and non-commercial use"], "CC-BY-ND-4.0"),
    (["Licença Creative Commons Attribution NonCommercial, sem fins comerciais"], "CC-BY-NC"),
])
def test_identifies(statements: list[str], expected: str) -> None:
    assert identify(statements)[0] == expected


@pytest.mark.parametrize("statements", [
    [], [""], ["none"], ["open-access"], ["All rights reserved."], ["Elsevier hereby grants permission to reuse"],
    ["http://creativecommons.org/licenses/by-ncnd/4.0/"], ["http://creativecommons.org/licenses/by-n/4.0/"],
    ["http://creativecommons.org/licenses/none/"], ["https://creativecommons.org/publicdomain/nothing/1.0"],
    ["CC BY-NCND"], ["CC-BY-N"], ["CC BYX"], ["creativecommons.org/licenses/by-by/4.0"],
    ["https://creativecommons.org/licenses/by-sa/4.0/", "https://creativecommons.org/licenses/by-nd/4.0/"],
    [BY4, "http://creativecommons.org/licenses/by-ncnd/4.0/"],
    ["This article is not in the public domain."], ["https://example.org/licenses/by/4.0/"],
])
def test_refuses_what_is_not_certain(statements: list[str]) -> None:
    found, _ = identify(statements)
    assert found == "unknown"
    assert family(found) is None


def test_families() -> None:
    assert [family(name) for name in ("CC0-1.0", "PD-US-Gov", "PD", "CC-BY-4.0", "CC-BY", "CC-BY-NC-ND-3.0", "CC-BY-SA-4.0")] == [
        "cc0", "cc0", "cc0", "cc-by", "cc-by", "cc-by-nc-nd", "cc-by-sa"]
    assert [family(name) for name in ("CC-BY-NCND-4.0", "CC-BY-N", "", "MIT")] == [None] * 4
