"""Files that give no image: listed in the run folder, and too many of them stop the run."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from openmae.commandline.flags import with_flags
from openmae.console.words import on_one_line
from openmae.data.loading.stream import Batch
from openmae.data.sources.source import Source
from openmae.data.survey.findings import most_broken
from openmae.data.survey.sample import Survey
from openmae.distributed.ranks import Ranks
from openmae.errors import UserError
from openmae.train.run import RunFolder


class BrokenFiles:
    """Keeps RUN/broken.txt, one `path<TAB>reason` a line, and the bound on their number.

    max_share: share of the files, 0 to 1, that may be broken.
    """

    def __init__(self, source: Source, folder: RunFolder, max_share: float) -> None:
        self.source, self.file, self.max_share = source, folder.path / "broken.txt", max_share
        self.seen: dict[str, str] = {}
        self.news: dict[str, str] = {}
        """Of the lead, what is not on the disk yet; of another rank, what the lead does not know yet."""
        self.leads = folder.leads
        if not self.leads:
            return
        if not folder.has_begun:  # files that a failed start listed may be mended
            self.file.unlink(missing_ok=True)
        elif self.file.exists():
            lines = self.file.read_text(encoding="utf-8").splitlines()
            self.seen = dict(line.split("\t", 1) for line in lines if "\t" in line)
        self._check(len(self.seen), len(source))

    def note_survey(self, look: Survey, patch_size: tuple[int, int]) -> None:
        """Notes what a first look at a sample of the files found. Raises UserError where it is too much."""
        found = [*look.broken, *look.smaller_than(patch_size)]
        self._note(found)
        self._check(len(found), look.looked_at)

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, each after its broken files were noted. Raises UserError where there are too many."""
        for batch in batches:
            if batch.broken:
                self._note(batch.broken)
                self._check(len(self.seen), len(self.source))
            if batch.failure:
                raise batch.failure
            yield batch

    def tell(self, ranks: Ranks) -> None:
        """Exchanges what was found, all ranks together. Raises UserError where it is too much."""
        for found in ranks.gather({} if self.leads else self.news):
            self._add(found)
        if not self.leads:
            self.news = {}
        with ranks.together():
            self._check(len(self.seen), len(self.source))

    def _note(self, broken: Iterable[tuple[int, str]]) -> None:
        self._add({on_one_line(self.source.name(index)): on_one_line(with_flags(reason)) for index, reason in broken})

    def _add(self, found: dict[str, str]) -> None:
        new = {path: reason for path, reason in found.items() if path not in self.seen}
        self.seen |= new
        self.news |= new
        if not self.leads or not self.news:
            return
        with suppress(OSError):  # a disk that does not take them gets them with the next ones
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(f"{path}\t{reason}\n" for path, reason in self.news.items())
            self.news = {}

    def _check(self, broken: int, of: int) -> None:
        if broken > most_broken(self.max_share, of):
            first = "; ".join(f"{path}: {reason}" for path, reason in list(self.seen.items())[:3])
            raise UserError(
                f"{broken} of {of} files cannot be used, more than --max-broken {self.max_share:g} allows ({first}); "
                f"all found so far are listed in {self.file}",
                "raise --max-broken, or mend or remove them and begin anew",
            )
