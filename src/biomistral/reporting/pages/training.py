"""Loss during the training of models, where there are curves."""

from collections.abc import Iterator

from biomistral.reporting.charts import loss_chart
from biomistral.reporting.page import Page
from biomistral.reporting.site_data import SiteData


def pages(site: SiteData) -> Iterator[Page]:
    """``training.html``."""
    if site.curves:
        yield Page("training.html", "Training", "training.html.j2", lambda: {"loss": loss_chart(site.curves)}, nav="Training")
