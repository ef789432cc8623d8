"""Run the code of the first argument: ``python -m`` for what a user types into a notebook. Not a test."""

import sys

exec(sys.argv[1])
