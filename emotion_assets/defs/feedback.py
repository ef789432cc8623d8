"""Group ``feedback``: what customers wrote, how they feel, and the page and exports that say so.

Of what customers wrote nothing goes to Dagster, whose history is kept and shown elsewhere: counts and links alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from emotion_assets.defs import metadata as display
from emotion_assets.defs.conditions import follow_inputs
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.defs.resources import MODEL_POOL, RETRY_ONCE, WAREHOUSE_POOL
from emotion_assets.settings import versions
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import CHAMPION
from emotion_assets.storage.warehouse.tables import Feedback, ScoredFeedback
from emotion_assets.storage.workspace import Workspace

if TYPE_CHECKING:
    from emotion_assets.scoring.cascade import Cascade

GROUP, OWNER = "feedback", "team:data"


def feedback_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    return [feedback, scored_feedback, feedback_report]


@dg.asset(
    group_name=GROUP,
    owners=[OWNER],
    kinds={"python", "duckdb"},
    code_version=versions.FEEDBACK,
    pool=WAREHOUSE_POOL,
    retry_policy=RETRY_ONCE,
    description="The accepted rows of every file ever dropped in the inbox, each once; files and rejects beside them.",
)
@user_errors_as_failures(private=True)
def feedback(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult[None]:
    from emotion_assets.forms.problems import reason_without_content
    from emotion_assets.ingest.ledger import ingest
    from emotion_assets.ingest.redating import undated_by_form
    from emotion_assets.storage.warehouse.content import feedback_version
    from emotion_assets.storage.warehouse.feedback import feedback_totals

    settings = workspace.settings
    report = ingest(settings.inbox, workspace.warehouse, settings.feedback, context.run.run_id, context.log.info)
    for file in report.left:
        context.log.warning(f"left alone: {file.why}")
    with workspace.warehouse.reading() as db:
        totals, undated, version = feedback_totals(db), undated_by_form(db), feedback_version(db)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            **display.rows(totals["rows"]),
            **display.table_columns(Feedback),
            "new files": display.table(
                [
                    {
                        "file": file.name,
                        "status": file.status,
                        "read": file.counts.read,
                        "accepted": file.counts.accepted,
                        "duplicate": file.counts.duplicate,
                        "rejected": file.counts.rejected,
                        "undated": file.counts.undated,
                        "reason": reason_without_content(file.reason) if file.reason else "",
                    }
                    for file in report.new
                ]
            ),
            "new rows": report.rows_accepted,
            "new rejects": sum(file.counts.rejected for file in report.new),
            "new duplicates": sum(file.counts.duplicate for file in report.new),
            "rejects": sum(row["n"] for row in totals["rejects"]),
            "files known before": report.known,
            "files left alone": display.table([{"file": file.name, "why": file.why} for file in report.left]),
            "rejects by reason": display.table(totals["rejects"]),
            "rows without a readable date": display.table(undated),
            "inbox": dg.MetadataValue.path(settings.inbox),
        },
    )


class ScoringConfig(dg.Config):
    """Off: each row is scored once, by the champion of its time."""

    rescore: str = Field(
        default="",
        description="all, or since 2026-01-31: score history again with the champion of now, keep the old scores",
    )
    engine: str = Field(default="", description="local or ray, in place of the profile's scoring.engine")


@dg.asset(
    deps=[feedback, CHAMPION],
    automation_condition=follow_inputs(),
    group_name=GROUP,
    owners=[OWNER],
    kinds={"python", "duckdb"},
    code_version=versions.SCORING,
    pool=MODEL_POOL,
    retry_policy=RETRY_ONCE,
    description="One score per feedback row and model version; unsure rows abstain and wait in review_queue.",
)
@user_errors_as_failures(private=True)
def scored_feedback(
    context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace], config: ScoringConfig
) -> dg.MaterializeResult[None]:
    from emotion_assets.scoring.engines.registry import choose_engine
    from emotion_assets.scoring.progress import RateLine
    from emotion_assets.scoring.score import score_feedback
    from emotion_assets.storage.warehouse.content import scored_version
    from emotion_assets.storage.warehouse.scores import score_totals

    started = time.perf_counter()
    report = score_feedback(
        choose_engine(workspace.settings, config.engine),
        workspace.store,
        workspace.warehouse,
        context.run.run_id,
        config.rescore,
        RateLine(context.log.info),
    )
    seconds = time.perf_counter() - started
    if report.remark:
        context.log.warning(report.remark)
    with workspace.warehouse.reading() as db:
        totals, version = score_totals(db), scored_version(db)
    abstained = sum(row["abstained"] for row in totals["emotions"])
    newest = sum(row["n"] for row in totals["emotions"])
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            **display.rows(totals["rows"]),
            **display.table_columns(ScoredFeedback),
            "model": f"{report.model} {report.model_version}",
            "newly scored rows": report.rows,
            "texts computed": report.computed,
            **({"texts per second": report.computed / seconds} if report.computed else {}),
            "abstentions": abstained,
            **({"coverage": 1 - abstained / newest} if newest else {}),
            **{f"new rows {status}": n for status, n in report.statuses.items()},
            "confidence threshold": report.threshold,
            "earlier rows with another status by it": report.redecided,
            **_cascade_metadata(report.cascade, report.by_first, report.remark),
            "emotions": display.table(totals["emotions"]),
            "waiting for review": totals["in_review"],
            **({"churn": display.table(report.churn)} if config.rescore else {}),
        },
    )


def _cascade_metadata(cascade: Cascade | None, by_first: int, remark: str) -> dict[str, Any]:
    """What the UI shows of a cascade, on the asset whose scores it gave."""
    if cascade is None:
        return {"cascade": remark} if remark else {}
    validation = cascade.figures[0]
    return {
        "cascade": f"{cascade.first.name} answers before {cascade.last.name}",
        "answered first (share of validation)": validation.share,
        "agreement of these with the champion": validation.agreement,
        "confidence from which on they are answered first": cascade.gate,
        "newly scored rows answered first": by_first,
        "cascade by split": display.table(cascade.table),
    }


@dg.asset(
    deps=[scored_feedback],
    automation_condition=follow_inputs(),
    group_name=GROUP,
    owners=[OWNER],
    kinds={"python", "parquet"},
    code_version=versions.FEEDBACK_REPORT,
    pool=WAREHOUSE_POOL,
    retry_policy=RETRY_ONCE,
    description="How customers feel and since when: a page for people, Parquet and CSV for dashboards.",
)
@user_errors_as_failures(private=True)
def feedback_report(
    context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]
) -> dg.MaterializeResult[None]:
    from emotion_assets.reports.feedback_page import write_feedback_page
    from emotion_assets.reports.pending import record_shown_reviews
    from emotion_assets.storage.exports import export_tables

    with record_shown_reviews(workspace.settings, workspace.warehouse):
        page = write_feedback_page(workspace.settings, workspace.store, workspace.warehouse)
        exported = export_tables(workspace.warehouse)
    return dg.MaterializeResult(
        metadata={
            **display.rows(exported.rows["scores"]),
            "page": display.page(workspace.settings, page),
            "exports": dg.MetadataValue.path(exported.folder.parent / "current"),
            "exported rows": display.table(_as_records(exported.rows)),
        },
    )


def _as_records(rows: dict[str, int]) -> list[dict[str, Any]]:
    return [{"table": name, "rows": n} for name, n in rows.items()]
