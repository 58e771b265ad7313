"""A suite of published benchmarks from the files of the settings."""

from collections import Counter
from collections.abc import Iterator

from biomistral.artifact import Workspace
from biomistral.benchmarks.folder import Suite, sound
from biomistral.benchmarks.published import suite
from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.progress import log
from biomistral.records import Question

_NAMED = 3


def published(work: Workspace) -> Suite:
    """The suite, its files told apart.

    Raises:
        UserError: a file cannot be read, or a benchmark of the suite has none.
    """
    settings: BenchmarkSettings = work.settings
    gathered = suite.gather(settings.suite, [work.locate(place) for place in settings.files], settings.language)
    if gathered.others:
        more = len(gathered.others) - _NAMED
        log.warning("left out, no files of suite '%s': %s%s", settings.suite, ", ".join(map(str, gathered.others[:_NAMED])),
                    f" and {more} more" if more > 0 else "")
    made = Suite(iter(()))
    for name in gathered.files:
        source = suite.SOURCES[name]
        work.licences[source.licence] = work.licences.get(source.licence, 0) + 1
        made.tasks |= {task: {"licence": source.licence, "source": source.paper}
                       for task in suite.tasks_in(name, settings.language)}
    made.questions = _read(work, gathered)
    return made


def _read(work: Workspace, gathered: suite.Gathered) -> Iterator[Question]:
    """The questions; afterwards unexpected sizes are said."""
    counts: Counter[tuple[str, str]] = Counter()
    for question in sound(work, suite.read(gathered, work.settings.seed)):
        counts[question.task, question.split] += 1
        yield question
    notes = suite.odd_sizes(work.settings.suite, counts)
    for note in [*notes, *suite.lacking(work.settings.suite, counts)]:
        log.warning(note)
    work.facts |= {"sizes": notes, "files_left_out": [path.name for path in gathered.others]}
