"""The fixture of a home with evaluated models."""

from emotion_assets_tests.worlds.evaluated import world

__all__ = ["world"]
