"""Retracted and withdrawn articles and their notices; titles that only sound alike stay."""

import pytest

from biomistral.corpus.articles.notices import withdrawn


@pytest.mark.parametrize("title", [
    "RETRACTED: Effects of X on Y", "Retracted Article: Effects of X", "WITHDRAWN: Effects of X", "[Retracted] Effects of X on Y",
    "Retraction: Effects of X", "Retraction notice to \u201cEffects of X\u201d [J. Test 3 (2010) 1-9]",
    "Retraction Note to: Effects",
    "Retraction Note: Effects of X", "Notice of Retraction: Effects", "Withdrawal: Effects of X on Y", "Withdrawal notice to",
    "Retraction of \u201cEffects of X\u201d", "Retraction for the article Effects of X", "Retraction", "REMOVED: Effects of X",
    "Expression of concern: Effects of X", "Editorial Expression of Concern", "Statement of Retraction: X",
    "Temporary removal: X",
    "Effects of X on Y [Retracted]", "Effects of X on Y (RETRACTED ARTICLE)",
    "Retratação: Efeitos de X", "Artigo retratado: Efeitos", "Retractación: Efectos de X", "Aviso de retractación: Efectos",
    "Nota de retratação do artigo Efeitos", "Rétractation : effets de X", "Avis de retrait : effets",
    "Zurückgezogen: Wirkung von X",
    "Ritrattazione: effetti di X", "Expresión de preocupación: Efectos", "撤稿：某研究", "Retractado: Efectos",
])
def test_titles_of_notices(title: str) -> None:
    assert withdrawn("research-article", (), title) == f"title: {title}"


@pytest.mark.parametrize("title", [
    "Retraction of the foreskin in boys", "Lung retraction after bleomycin", "Withdrawal of antipsychotics in dementia: a trial",
    "Alcohol withdrawal: management", "Retracted nipples: a review of techniques", "Retraction balls in diffuse axonal injury",
    "Concern about vaccines", "Withdrawn from care: patients who left", "Removal of wisdom teeth", "",
    "Removed ovaries and bone loss",
    "Opioid withdrawal (retrospective)", "Retraction forces of the brain: a model", "Treatment withdrawal - who decides?",
    "Retirada do tratamento", "Retracción gingival en adultos",
])
def test_titles_that_sound_alike(title: str) -> None:
    assert withdrawn("research-article", (), title) is None


def test_types_and_links() -> None:
    assert withdrawn("retraction", (), "A title") == "article type retraction"
    assert withdrawn("Expression-of-Concern", (), "A title") == "article type Expression-of-Concern"
    assert withdrawn("research-article", ("companion", "retraction-forward"), "A title") == "related article: retraction-forward"
    assert withdrawn("correction", ("retracted-article",), "A title") == "related article: retracted-article"
    assert withdrawn("research-article", ("corrected-article", "commentary"), "A title") is None
