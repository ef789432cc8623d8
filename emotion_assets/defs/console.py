"""The terminal's view of a run: what starts, what a step says, what it cost, and a user's error as one line.

The whole event log stays in Dagster's storage and UI; only its echo on the terminal is shortened here, and left
out where no person started the run: a run of the UI, a schedule or a sensor is looked at in the UI.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import dagster as dg

SHOWN = {"STEP_START", "STEP_SUCCESS", "STEP_FAILURE", "RUN_SUCCESS", "RUN_FAILURE", "RUN_CANCELED"}


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = _dagster_metadata(record)
        step = str(meta.get("step_key") or "run").replace("__", "/")
        return f"{self.formatTime(record, '%H:%M:%S')}  {step:<32} {_text(record, meta)}"


def _dagster_metadata(record: logging.LogRecord) -> dict[str, Any]:
    meta: dict[str, Any] = getattr(record, "dagster_meta", {})
    return meta


def _text(record: logging.LogRecord, meta: dict[str, Any]) -> str:
    said = str(meta.get("orig_message") or record.getMessage())
    event = meta.get("dagster_event")
    if event is None:
        return said
    if event.event_type_value == "STEP_START":
        return "starts"
    if event.event_type_value == "STEP_SUCCESS":
        return f"done in {event.event_specific_data.duration_ms / 1000:.1f} s"
    if event.event_type_value == "STEP_FAILURE":
        data = event.event_specific_data
        if data.user_failure_data is not None:
            cause = data.error.cause.to_string() if data.error and data.error.cause else ""
            return f"FAILED: {data.user_failure_data.description}" + (f"\n{cause}" if cause else "")
        return f"FAILED: {data.error.to_string() if data.error else said}"
    return said


def _is_shown(record: logging.LogRecord) -> bool:
    event = _dagster_metadata(record).get("dagster_event")
    if event is not None:
        return event.event_type_value in SHOWN
    return record.levelno >= logging.INFO and "[pipes]" not in record.getMessage()


def _is_started_by_a_service() -> bool:
    """Services of Dagster start each run as ``dagster api execute_run``."""
    return sys.argv[1:2] == ["api"]


def _console_logger(_: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.getLogger("emotion_assets.defs.console")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if _is_started_by_a_service():
        logger.addHandler(logging.NullHandler())
    elif not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(_Line())
        handler.addFilter(_is_shown)
        logger.addHandler(handler)
    return logger


console_logger = dg.LoggerDefinition(
    _console_logger, description="One short line for each thing a person wants to know while a run goes on."
)
