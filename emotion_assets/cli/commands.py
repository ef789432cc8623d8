"""``emotion-assets``: the library for a terminal. Each command calls one function of it and prints the result."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.cores import count_cores
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.workspace import Workspace

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()


def main() -> None:
    """Run a command; what a user can fix ends as one line on standard error with exit code 2."""
    os.environ.setdefault("OMP_NUM_THREADS", str(count_cores()))  # torch counts the machine's, not the container's
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        print(f"{error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def _workspace() -> Workspace:
    return Workspace(load_settings())


@app.command()
def score(
    what: Annotated[str, typer.Argument(help="a line of text, the path of a feedback file, or - for lines piped in")],
    output: Annotated[Path | None, typer.Option(help="write the scores here (.csv or .parquet)")] = None,
    rejects: Annotated[Path | None, typer.Option(help="write every rejected row here (.csv or .parquet)")] = None,
) -> None:
    """Classify a line of text, a file of feedback or lines piped in with the champion. Nothing is stored."""
    from emotion_assets.cli import scoring
    from emotion_assets.scoring.cascade import calibrate_scoring

    workspace = _workspace()
    source = scoring.stdin_bytes() if what == scoring.STDIN else scoring.feedback_file(what)
    if source is None and (output or rejects):
        option = "--output" if output else "--rejects"
        raise UserError(f"{option}: only the scores of a file are written; leave it out, or give a file to score")
    if source is not None:
        scoring.check_targets(source, output=output, rejects=rejects)
    champion, remark = calibrate_scoring(workspace.settings, workspace.store)
    if remark:
        print(remark, file=sys.stderr)
    if source is None:
        (answer,) = champion.load().score([what])
        console.print(scoring.probabilities_table(answer, champion.labels, champion.name))
        return
    report, answers = scoring.score_source(champion, source, workspace.settings, output, rejects)
    if len(answers) == 1:
        console.print(scoring.probabilities_table(answers[0][1], champion.labels, champion.name))
    elif answers:
        console.print(scoring.answers_table(answers))
    if report.scored:
        typer.echo(report)
    for line in scoring.rejected_lines(report, rejects):
        typer.echo(line)
    if not report.scored:
        raise UserError(scoring.nothing_scored(what, report))


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="any file that may be feedback")]) -> None:
    """Say what a file is, what it would give, and the lines of YAML that make it give more. Nothing is stored."""
    from emotion_assets.cli import inspection
    from emotion_assets.ingest.inspect import inspect_file

    if file.is_dir():
        raise UserError(f"{file}: is a folder; give one file of it")
    settings = load_settings()
    seen = inspect_file(file, settings.feedback, settings.inbox)
    for line in inspection.what_it_is(seen):
        typer.echo(line)
    if seen.columns:
        console.print(inspection.columns_table(seen))
    typer.echo("As the profile stands: " + inspection.NEXT_LINE.join(inspection.what_it_gives(seen.present)))
    for line in inspection.what_to_do(seen):
        typer.echo(line)


@app.command()
def leaderboard() -> None:
    """Print the leaderboard: each model's newest version on the test split, best first."""
    from emotion_assets.cli.tables import leaderboard_table
    from emotion_assets.storage.warehouse.evaluation import read_leaderboard

    workspace = _workspace()
    with workspace.warehouse.reading() as db:
        rows = read_leaderboard(db)
    if not rows:
        raise UserError(f"{workspace.settings.database}: holds no evaluation yet; materialise evaluation_table first")
    console.print(leaderboard_table(rows))
    console.print(f"profile {workspace.settings.profile}: {workspace.settings.description}", style="dim")


@app.command()
def doctor(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="restore the database from exports and inbox")] = False,
) -> None:
    """Say what this machine can run with the profile, and why not; exit with 1 when something is missing."""
    from emotion_assets.cli.doctor import examine

    workspace = _workspace()
    if rebuild:
        from emotion_assets.cli.rebuild import rebuild as restore

        for line in restore(workspace):
            typer.echo(line)
        return
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}
    with console.status("looking"):
        findings = list(examine(workspace.settings))
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        detail = Text(finding.detail, overflow="fold")  # a long path goes on in the next line, whole
        table.add_row(marks[finding.state], Text(finding.subject, style="bold", no_wrap=True), detail)
    console.print(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command()
def export(
    scores: Annotated[Path | None, typer.Option(help="write the champion's scores here (.csv or .parquet)")] = None,
    review: Annotated[
        Path | None, typer.Option(help="write the rows that wait for a person here (.xlsx or .csv)")
    ] = None,
    model: Annotated[str | None, typer.Option(help="a model of the profile, for plain transformers; with --to")] = None,
    to: Annotated[Path | None, typer.Option(help="the new folder for --model")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="of --model the adapter alone, for PEFT")] = False,
) -> None:
    """Write the champion's scores or the review queue to a file, or a model to a folder that transformers loads."""
    from emotion_assets.review.queue import export_review
    from emotion_assets.storage.exports import export_scores

    if (model is None) != (to is None) or (adapter and model is None):
        raise UserError("--model, --to: belong together; give --model NAME --to FOLDER (and --adapter)")
    if scores is None and review is None and model is None:
        raise UserError("nothing to export; give --scores FILE, --review FILE or --model NAME --to FOLDER")
    workspace = _workspace()
    if scores is not None:
        typer.echo(f"{export_scores(workspace.warehouse, scores)} rows written to {scores}")
    if review is not None:
        typer.echo(f"{export_review(workspace.warehouse, review, workspace.settings.labels)} rows written to {review}")
    if model is not None and to is not None:
        from emotion_assets.cli.model_export import export_model

        for line in export_model(workspace, model, to, adapter):
            typer.echo(line)


@app.command(name="import")
def import_(review: Annotated[Path, typer.Option(help="the .xlsx or .csv file with the labels filled in")]) -> None:
    """Bring reviewed labels back; a row with a label that is not the profile's is named and left out."""
    from emotion_assets.review.queue import import_review

    workspace = _workspace()
    typer.echo(import_review(workspace.warehouse, review, workspace.settings.labels))


@app.command()
def forget(
    source: Annotated[str | None, typer.Option(help="folder of the inbox; default, or with --where all")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="the row's id in its file")] = None,
    where: Annotated[str | None, typer.Option(help="rows with this attribute, as in email=ann@example.org")] = None,
) -> None:
    """Remove a person's rows from database, exports and page for good, and say where they still are."""
    from emotion_assets.cli.forget import forget as forget_person
    from emotion_assets.cli.forget import make_person

    person = make_person(source, id_, where)
    for line in forget_person(_workspace(), person):
        typer.echo(line)
