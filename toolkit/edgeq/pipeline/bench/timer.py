"""What every mode of running models has to offer, so that its bundles can be timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.errors import UnsupportedError
    from edgeq.progress import Progress
    from edgeq.report.measured import Times

ContenderT = TypeVar("ContenderT")


class Timed(Protocol):
    """What one contender took."""

    @property
    def id(self) -> str:
        """The variant's; of another bundle with its name before it; or a file's or folder's name."""

    @property
    def saturates(self) -> tuple[str, ...] | None:
        """Layers whose integer sums saturate in this CPU's kernels; None where nothing here can tell."""

    def to_json(self) -> dict[str, Any]:
        """As `bench --json` prints it."""


class BenchReport(Protocol):
    """What all contenders took, in the words of their mode."""

    @property
    def baseline(self) -> str:
        """The contender that ratios refer to."""

    @property
    def contenders(self) -> Sequence[Timed]:
        """What each took."""

    @property
    def title(self) -> str:
        """Of the table."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table."""

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Of the table."""

    def times(self, machine: str, preferred: str) -> Times:
        """For a bundle's page.

        Args:
            machine: its processor, and how many threads ran.
            preferred: the bundle's first variant.
        """


class Timer(Protocol[ContenderT]):
    """Finds what can be timed, and times it; opened for one bundle and request."""

    def nothing(self) -> UnsupportedError:
        """Why none of the bundle's variants can be timed here."""

    def variants(self, bundle: Bundle, prefix: str) -> dict[str, ContenderT]:
        """Those variants of a bundle that can be timed here, by id behind a prefix.

        Raises:
            UnsupportedError: it is a bundle of another mode.
        """

    def file(self, path: Path, mine: Mapping[str, ContenderT]) -> dict[str, ContenderT]:
        """What is no bundle, by its name.

        Args:
            path: a file or folder.
            mine: the bundle's own contenders.

        Raises:
            DataError: it is nothing to compare with.
        """

    def time(
        self, mine: Mapping[str, ContenderT], theirs: Mapping[str, ContenderT], progress: Progress
    ) -> BenchReport:
        """Time all in turn; ratios are to the first of the others, or else to the first variant.

        Raises:
            EdgeqError: one cannot be opened, or fails.
        """
