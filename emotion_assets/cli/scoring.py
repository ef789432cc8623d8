"""What ``emotion-assets score`` is given, a text, a file or standard input, and how the answers are shown."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from emotion_assets.settings.errors import UserError

if TYPE_CHECKING:
    from emotion_assets.forms.problems import Rejected
    from emotion_assets.ingest.rows import Accepted
    from emotion_assets.scoring.calibration import Answer, Calibration
    from emotion_assets.scoring.unstored import RowsReport
    from emotion_assets.settings.schema import Settings

    Answers = list[tuple[Accepted, Answer]]

STDIN = "-"
OTHER_ENDINGS = frozenset({".json", ".txt", ".gz", ".zip", ".xlsx", ".xls", ".ods"})
FRACTION = re.compile(r"\d+/\d+")  # 24/7 and 10/10 stand in texts


def feedback_file(what: str) -> Path | None:
    """The file that ``what`` names, or None where it is a line of text.

    Raises:
        UserError: it is blank, a folder, or looks like the path of a file and is not there.
    """
    if not what.strip():
        raise UserError("nothing to score; give a line of text, or the path of a feedback file")
    try:
        if stat.S_ISDIR(Path(what).stat().st_mode):
            raise UserError(f"{what}: is a folder; give one file of it")
        return Path(what)
    except OSError as error:  # a text is no name, or too long for one
        if _looks_like_a_path(what):
            raise UserError(
                f"{what}: cannot be opened ({error.strerror}); give the path of a feedback file, or, if it is a text, "
                f"pipe it into `emotion-assets score {STDIN}`"
            ) from None
    return None


def _looks_like_a_path(what: str) -> bool:
    """Whether it has a separator or a known ending; blanks may be in it, line ends not."""
    from emotion_assets.forms.registry import inbox_suffixes

    if len(what.splitlines()) > 1:
        return False
    return "/" in FRACTION.sub("", what) or Path(what.strip()).suffix.lower() in inbox_suffixes() | OTHER_ENDINGS


def check_targets(source: Path | IO[bytes], **targets: Path | None) -> None:
    """Refuse to write over the file that is read, whatever its name there, or both results to one file.

    Raises:
        UserError: names the option.
    """
    try:
        read = os.fstat(source.fileno()) if not isinstance(source, Path) else source.stat()
    except (OSError, ValueError):  # it is gone, or the input is none of the system's files
        read = None
    taken: dict[Path, str] = {}
    for option, path in targets.items():
        if path is None:
            continue
        try:
            same = read is not None and stat.S_ISREG(read.st_mode) and os.path.samestat(read, path.stat())
        except OSError:
            same = False
        if same:
            raise UserError(f"--{option} {path}: is the file that is read; give another name")
        if other := taken.get(path.resolve()):
            raise UserError(f"--{option} {path}: is the file of --{other} too; give another name")
        taken[path.resolve()] = option


def score_source(
    calibration: Calibration, source: Path | IO[bytes], settings: Settings, output: Path | None, rejects: Path | None
) -> tuple[RowsReport, Answers]:
    """Score a file or piped lines; each answer is returned where lines are piped and ``output`` takes none.

    A file with an ``output`` is scored in parts: cut off, the same command goes on where it was.

    Raises:
        UserError: as ``score_rows`` and ``score_file``.
    """
    from emotion_assets.cli.progress import ShownProgress
    from emotion_assets.ingest.readers import read_feedback
    from emotion_assets.ingest.sources import source_name_of
    from emotion_assets.scoring.engines.registry import make_engine
    from emotion_assets.scoring.parts import FileJob, score_file
    from emotion_assets.scoring.progress import FileRows
    from emotion_assets.scoring.unstored import score_rows
    from emotion_assets.storage.store import fingerprint

    answers: Answers = []
    feedback, engine = settings.feedback, make_engine(settings.scoring)
    if not isinstance(source, Path):

        def keep(rows: list[Accepted], scored: list[Answer]) -> None:
            if output is None:
                answers.extend(zip(rows, scored, strict=True))

        return score_rows(calibration, lines_of(source), engine, feedback.batch_size, output, rejects, keep), answers

    name = source_name_of(source, settings.inbox)

    file = FileRows(count_rows(source))

    def read() -> Iterator[Accepted | Rejected]:
        return file.counted(read_feedback(source, feedback, name, file.opened))

    with ShownProgress(file) as shown:
        if output is None:
            size, reached = feedback.batch_size, shown.reached
            return score_rows(calibration, read(), engine, size, rejects=rejects, progress=reached), answers
        job = FileJob(source, read, fingerprint(feedback.model_dump(mode="json"), name), output, rejects)
        return score_file(job, calibration, engine, feedback.batch_size, shown.say, shown.reached), answers


def count_rows(path: Path) -> int | None:
    """How many rows a Parquet file says that it has; None for other forms."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    except Exception:  # another form, or one that its reader will name
        return None


def lines_of(stream: IO[bytes]) -> Iterator[Accepted | Rejected]:
    """Every line of a stream that is not blank, as a text to score; a line that is not UTF-8 is rejected."""
    from emotion_assets.forms.problems import Reason, RowProblem
    from emotion_assets.ingest.rows import Accepted

    for number, raw in enumerate(stream, start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            problem = RowProblem(Reason.BAD_ENCODING, f"byte 0x{byte:02x} is no character of UTF-8; pipe UTF-8 in")
            yield problem.at(number, raw)
            continue
        if text.strip():
            yield Accepted(row_number=number, id=None, text=text, created_at=None, attributes={})


def stdin_bytes() -> IO[bytes]:
    """Standard input.  Raises UserError where it is closed."""
    if sys.stdin is None:
        raise UserError("standard input: is closed; pipe lines of text in")
    return sys.stdin.buffer


def probabilities_table(answer: Answer, labels: Sequence[str], model: str) -> Table:
    """One answer with the probability of every label."""
    table = Table("emotion", "probability", "", title=f"{answer.emotion} ({answer.status}), model {model}")
    for label, p in sorted(zip(labels, answer.probabilities, strict=True), key=lambda pair: -pair[1]):
        table.add_row(label, f"{p:.3f}", "█" * round(24 * p))
    return table


def answers_table(answers: Answers) -> Table:
    """The answers, a line for each text."""
    table = Table("line", "emotion", "probability", "status", "text")
    table.columns[-1].no_wrap, table.columns[-1].overflow = True, "ellipsis"
    for row, answer in answers:
        shown = "".join(character if character.isprintable() else " " for character in row.text)
        table.add_row(str(row.row_number), answer.emotion, f"{answer.confidence:.3f}", answer.status, Text(shown))
    return table


def rejected_lines(report: RowsReport, rejects: Path | None) -> list[str]:
    """A line for each of the first rejected rows, and where the others stand."""
    lines = [f"row {row.row_number}: {row.reason_code}, {row.detail}" for row in report.named]
    if more := report.rejects.total() - len(report.named):
        where = f"all are in {rejects}" if rejects else "--rejects FILE.csv writes all of them"
        lines.append(f"and {more} more rejected rows; {where}")
    return lines


def nothing_scored(what: str, report: RowsReport) -> str:
    """Why no row was scored, in one line."""
    name = "standard input" if what == STDIN else what
    if not report.rejects:
        return f"{name}: nothing scored, it holds no text; give one with rows"
    reasons = ", ".join(f"{n} rejected as {reason}" for reason, n in report.rejects.most_common())
    return f"{name}: nothing scored, {reasons}; mend the rows as their details say"
