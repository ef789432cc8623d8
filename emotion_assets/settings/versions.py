"""The version of the code of each step. It goes up when the same inputs and settings would give another result.

A step's recipe (by which what was made before is found again) and its asset's ``code_version`` (by which Dagster sees
what is stale) both read it here, so that neither can be forgotten.
"""

DATASET = "2"
CLASS_BALANCE = "1"
TOKENS = "1"
TRAINING = "2"
PREDICTIONS = "2"
PRECISION = "1"
METRICS = "1"
EVALUATION = "1"
CHAMPION = "1"
READER = "2"
FEEDBACK = "2"
SCORING = "1"
FEEDBACK_REPORT = "1"
