"""The definitions that a step inherits from the process it is forked from (``preloaded``), in place of building them:
they are those that its run began with, whatever was written into a profile since."""

from __future__ import annotations

import dagster as dg

definitions: dg.Definitions | None = None
