"""``python -m emotion_assets.cli``: the same as ``emotion-assets``."""

from emotion_assets.cli.commands import main

main()
