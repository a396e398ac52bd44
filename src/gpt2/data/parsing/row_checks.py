"""Checks rows one by one against a schema, and lists their problems."""

import logging
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from gpt2.core.errors import UserError
from gpt2.data.parsing.conversations import ConversationError
from gpt2.data.parsing.fields import Wanted
from gpt2.data.parsing.layouts import advice, present_fields
from gpt2.data.parsing.rows import Row

PROBLEMS_SHOWN = 20

Schema = TypeVar("Schema", bound=BaseModel)
logger = logging.getLogger(__name__)


class RowChecks(Generic[Schema]):
    """Parses rows into ``schema`` one by one. Only the first `PROBLEMS_SHOWN` problems are kept.

    Args:
        schema: class of the items.
        origin: the beginning of messages.
        wanted: paths of the fields, and which are required.
        items: gives the fields of each item in a row, usually one.
        on_bad_record: whether a bad row is an error.
    """

    def __init__(
        self,
        schema: type[Schema],
        origin: str,
        wanted: Wanted,
        items: Callable[[object], list[object]],
        on_bad_record: Literal["error", "skip"],
    ) -> None:
        self._schema, self._origin, self._wanted = schema, origin, wanted
        self._roots = wanted.roots
        self._items, self._on_bad_record = items, on_bad_record
        self._rows = self._bad = self._problems = 0
        self._shown: list[str] = []
        self._unused: set[str] = set()
        self._advice = ""
        self._alone = False

    def check(self, row: Row) -> list[Schema]:
        """The items in a row; empty if the row is bad."""
        found, wrong = self._parse(row)
        self._alone |= not self._rows and not row.place
        self._rows += 1
        if isinstance(row.value, dict):
            if len(self._unused) < PROBLEMS_SHOWN:
                self._unused |= row.value.keys() - self._roots
            if row.value and wrong and not self._advice and self._wanted.missing(row.value):
                self._advice = advice(row.value, self._wanted.paths) or present_fields(row.value)
        if wrong:
            self._add_problems(row, *wrong)
            return []
        return found

    def finish(self) -> int:
        """Number of bad rows; call it after the last row.

        Raises:
            UserError: there are bad rows and they are an error, or there is no good one.
        """
        bad = self._bad
        if not self._rows:
            raise UserError(f"{self._origin}: no records in it")
        if bad and (self._on_bad_record == "error" or bad == self._rows):
            raise UserError(self._listed(self._origin))
        if bad:
            heading = f"{self._origin}: {bad:,} of {self._rows:,} records skipped"
            logger.warning("%s", self._listed(heading))
        if self._unused:
            names = ", ".join(map(repr, sorted(self._unused)[:PROBLEMS_SHOWN]))
            logger.info("%s: fields not used: %s", self._origin, names)
        return bad

    def _parse(self, row: Row) -> tuple[list[Schema], list[str]]:
        """The items in a row, and its problems."""
        if row.problem:
            return [], [row.problem]
        try:
            return [self._schema.model_validate(item) for item in self._items(row.value)], []
        except ConversationError as error:
            return [], [str(error)]
        except ValidationError as error:
            return [], [self._described(problem) for problem in error.errors()]

    def _described(self, problem: Any) -> str:
        key = ".".join(self._wanted.paths.get(part, str(part)) for part in problem["loc"])
        if problem["type"] == "string_pattern_mismatch":
            return f"'{key}' is empty"
        convertible = isinstance(problem["input"], bool | int | float | list)
        hint = ". coerce: true converts it" if convertible else ""
        return f"'{key}': {problem['msg']}{hint}" if key else str(problem["msg"])

    def _add_problems(self, row: Row, *wrong: str) -> None:
        """Count the row as bad, and keep its first problems."""
        self._bad += 1
        self._problems += len(wrong)
        for problem in wrong[: PROBLEMS_SHOWN - len(self._shown)]:
            self._shown.append(f"{row.place}: {problem}" if row.place else problem)

    def _listed(self, heading: str) -> str:
        """The heading and the first problems; on one line if one problem affects a whole file."""
        if self._alone and self._problems == 1:
            return f"{heading}: {self._shown[0]}"
        more = self._problems - len(self._shown)
        end = [f"and {more:,} more"] if more else []
        end += [self._advice] if self._advice else []
        return "\n  ".join([f"{heading}: {self._problems:,} problem(s)", *self._shown, *end])
