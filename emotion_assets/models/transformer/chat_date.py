"""Pin the date that a chat template writes into its prompts, so that scoring makes the prompts of the training.

Templates such as those of Llama 3.1 and SmolLM3 ask for today's date by ``strftime_now``. A template that is loaded
here gets a macro of that name before it, which answers with one fixed date; it is saved so, and plain transformers
reads the same prompts from it.
"""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

from emotion_assets.settings.errors import DataError

PINNED = date(2024, 7, 26)  # what the template of Llama 3.1 itself writes where no date is to be had
ASKS, MACRO = "strftime_now", "{%- macro strftime_now(format) -%}"
_CALL = re.compile(r"strftime_now\s*\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)")


def pin_date(template: str) -> str:
    """The template with the date pinned; as it is where it asks for none, or is pinned already.

    Raises:
        DataError: it asks for the date in a format that does not stand in the template.
    """
    if ASKS not in template or template.startswith(MACRO):
        return template
    formats = sorted({single or double for single, double in _CALL.findall(template)})
    if len(re.findall(rf"{ASKS}\s*\(", template)) != len(_CALL.findall(template)):
        raise DataError(
            f"the base's chat template writes today's date in a format of its own making ({ASKS}); take a base whose "
            "template names the format, or edit chat_template.jinja in a folder of your own"
        )
    answers = "".join(
        f"{{%- if format == {json.dumps(form)} -%}}{PINNED.strftime(form)}{{%- endif -%}}" for form in formats
    )
    return f"{MACRO}{answers}{{%- endmacro %}}\n{template}"  # the line break: transformers trims it after a block


def has_live_date(tokenizer: Path) -> bool:
    """Whether the stored tokenizer's chat template writes the date of the day."""
    file, config = tokenizer / "chat_template.jinja", tokenizer / "tokenizer_config.json"
    template = file.read_text(encoding="utf-8") if file.is_file() else ""
    if not template and config.is_file():
        template = json.loads(config.read_text(encoding="utf-8")).get("chat_template") or ""
    return isinstance(template, str) and ASKS in template and not template.startswith(MACRO)
