"""How good the models are: metrics, predictions, the comparison, and which one becomes champion."""
