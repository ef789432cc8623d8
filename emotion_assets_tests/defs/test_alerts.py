"""A run that failed is told of in one line: which steps, and why; and to the webhook where one is set."""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest.mock import create_autospec

import dagster as dg
import pytest

from emotion_assets.defs.alerts import failure_sensor, post
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.errors import SettingsError


def tell(home: Path, webhook: str | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the sensor logs of a run of which one step failed and one was abandoned."""

    @dg.op
    def broken() -> int:
        raise dg.Failure("the thing is wrong; the fix")

    @dg.op
    def after(n: int) -> None: ...

    @dg.job
    def two_steps() -> None:
        after(broken())

    settings = load_settings(
        "embedded", environ={"EMOTION_WEBHOOK": webhook} if webhook else {}, overrides={"home": home}
    )
    log = create_autospec(logging.Logger, instance=True)
    with dg.DagsterInstance.ephemeral() as instance:
        result = two_steps.execute_in_process(instance=instance, raise_on_error=False)
        context = dg.build_run_status_sensor_context(
            sensor_name="failure_sensor",
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            dagster_event=result.get_run_failure_event(),
        ).for_run_failure()
        monkeypatch.setattr(dg.RunStatusSensorContext, "log", property(lambda self: log))
        failure_sensor(settings)(context)
    return "\n".join(call.args[0] for call in log.method_calls)


def test_the_log_has_one_line_with_step_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tell(tmp_path, None, monkeypatch)
    assert said.count("broken: the thing is wrong; the fix") == 1 and "of two_steps failed" in said


def test_the_webhook_gets_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[dict[str, str]] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        tell(tmp_path, f"http://127.0.0.1:{server.server_port}/secret", monkeypatch)
    finally:
        server.shutdown()
        server.server_close()
    (message,) = got
    assert "broken: the thing is wrong; the fix" in message["text"] and message["run_id"]


def test_a_webhook_that_does_not_answer_fails_nothing_and_its_address_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tell(tmp_path, "http://127.0.0.1:9/secret", monkeypatch)
    assert "the failure_webhook did not take the line" in said and "secret" not in said
    assert post("http://127.0.0.1:9/secret", "line", "run") is not None


def test_an_address_that_is_none_is_one_line() -> None:
    with pytest.raises(SettingsError, match="failure_webhook"):
        load_settings("embedded", environ={"EMOTION_WEBHOOK": "chat.example"})
