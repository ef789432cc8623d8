"""Which model version scores feedback: the rule, as a pure function of figures measured on validation.

Belongs here: promotion, refusal and the way back through earlier champions. Does not belong here: where figures and
decisions are kept, and anything measured on test, which no choice may see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emotion_assets.settings.schema import EvaluationSettings


@dataclass(frozen=True)
class Candidate:
    """A model version and its figures on the validation rows of one fingerprint.

    ``recalls`` has the labels that occur in these rows. ``total_parameters`` stands for cost: unlike a measured time
    it is the same on every machine, so the same figures always give the same decision.
    """

    model: str
    model_version: str
    model_digest: str
    split_fingerprint: str
    accuracy: float
    macro_f1: float
    total_parameters: int
    recalls: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """What the rule says of one candidate; ``difference`` is accuracy minus the incumbent's, None without one."""

    model: str
    model_version: str
    accuracy: float
    macro_f1: float
    total_parameters: int
    difference: float | None
    qualifies: bool
    why: str

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Decision:
    """``action`` is first (there was no champion), promoted or kept."""

    action: str
    chosen: Candidate
    reason: str
    verdicts: tuple[Verdict, ...]


def decide(candidates: Sequence[Candidate], incumbent: Candidate | None, rule: EvaluationSettings) -> Decision:
    """The champion after these candidates have been measured.

    A challenger replaces the incumbent when it is better by ``promotion_margin``, or when it is at most
    ``as_good_within`` worse and has ``much_cheaper`` times fewer parameters, and when no class has collapsed that the
    incumbent serves. Without an incumbent the best candidate is taken, a much cheaper one that is as good before it.

    Raises:
        ValueError: there is no candidate, or they were not measured on the same rows.
    """
    if len({c.split_fingerprint for c in [*candidates, *([incumbent] if incumbent else [])]}) != 1:
        raise ValueError("a decision needs candidates, all measured on the same validation rows")
    if incumbent is None:
        return _decide_first(candidates, rule)
    challengers = [c for c in candidates if c.model_version != incumbent.model_version]
    verdicts = tuple(_verdict(c, incumbent, rule) for c in challengers)
    qualified = [c for c, verdict in zip(challengers, verdicts, strict=True) if verdict.qualifies]
    better = [c for c in qualified if _gain(c, incumbent) >= rule.promotion_margin]
    if not qualified:
        best = max(verdicts, key=lambda v: v.accuracy, default=None)
        reason = "no other model was measured" if best is None else f"best challenger {best.model}: {best.why}"
        return Decision("kept", incumbent, f"{incumbent.model} stays ({incumbent.accuracy:.4f}); {reason}", verdicts)
    chosen = _choose_best(better or qualified, rule)
    why = next(verdict.why for verdict in verdicts if verdict.model_version == chosen.model_version)
    return Decision("promoted", chosen, f"{chosen.model} replaces {incumbent.model}: {why}", verdicts)


def collapsed_classes(candidate: Candidate, rule: EvaluationSettings) -> list[str]:
    """The labels that the candidate hardly ever recognises."""
    return [label for label, recall in candidate.recalls.items() if recall < rule.collapse_recall]


def champion_before(history: Sequence[tuple[str, str]]) -> str | None:
    """The digest to roll back to, from all decisions (action, digest of the chosen model), oldest first.

    Each rollback takes away the champion of its time, so that two in a row go two champions back.
    """
    stack: list[str] = []
    for action, digest in history:
        if action == "rolled_back":
            stack.pop()
        elif not stack or stack[-1] != digest:
            stack.append(digest)
    return stack[-2] if len(stack) > 1 else None


def _decide_first(candidates: Sequence[Candidate], rule: EvaluationSettings) -> Decision:
    whole = [c for c in candidates if not collapsed_classes(c, rule)]
    chosen = _choose_best(whole or candidates, rule)
    verdicts = tuple(
        _make_verdict(
            c, None, c in whole, "" if c in whole else _describe_collapse(collapsed_classes(c, rule), c, rule)
        )
        for c in candidates
    )
    reason = f"{chosen.model} is the first champion: validation accuracy {chosen.accuracy:.4f}"
    if not whole:
        reason += f", though every model has a class with recall below {rule.collapse_recall}"
    elif chosen.accuracy < max(c.accuracy for c in whole):
        reason += f", as good as the best within {rule.as_good_within} and much cheaper"
    return Decision("first", chosen, reason, verdicts)


def _verdict(challenger: Candidate, incumbent: Candidate, rule: EvaluationSettings) -> Verdict:
    gain = _gain(challenger, incumbent)
    lost = [c for c in collapsed_classes(challenger, rule) if c not in collapsed_classes(incumbent, rule)]
    points, margin = f"{gain * 100:+.2f} points of validation accuracy", f"{rule.promotion_margin * 100:g}"
    if lost:
        return _make_verdict(challenger, gain, False, f"{points}, but {_describe_collapse(lost, challenger, rule)}")
    if gain >= rule.promotion_margin:
        return _make_verdict(challenger, gain, True, f"{points}, at or above the margin of {margin}")
    if gain >= -rule.as_good_within and _much_cheaper(challenger, incumbent, rule):
        times = incumbent.total_parameters / max(1, challenger.total_parameters)
        return _make_verdict(challenger, gain, True, f"as good ({points}) and {times:.1f} times fewer parameters")
    return _make_verdict(challenger, gain, False, f"{points}, short of the margin of {margin}")


def _make_verdict(candidate: Candidate, difference: float | None, qualifies: bool, why: str) -> Verdict:
    return Verdict(
        candidate.model,
        candidate.model_version,
        candidate.accuracy,
        candidate.macro_f1,
        candidate.total_parameters,
        difference,
        qualifies,
        why,
    )


def _choose_best(candidates: Sequence[Candidate], rule: EvaluationSettings) -> Candidate:
    """The most accurate, or the most accurate of those that are as good and much cheaper."""
    best = _most_accurate(candidates)
    cheaper = [c for c in candidates if _gain(c, best) >= -rule.as_good_within and _much_cheaper(c, best, rule)]
    return _most_accurate(cheaper) if cheaper else best


def _most_accurate(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda c: (-c.accuracy, c.total_parameters, c.model))


def _gain(candidate: Candidate, other: Candidate) -> float:
    """Accuracy gained, free of the noise of floating point that could miss a margin met exactly."""
    return round(candidate.accuracy - other.accuracy, 9)


def _much_cheaper(candidate: Candidate, other: Candidate, rule: EvaluationSettings) -> bool:
    return candidate.total_parameters * rule.much_cheaper <= other.total_parameters


def _describe_collapse(labels: Sequence[str], candidate: Candidate, rule: EvaluationSettings) -> str:
    named = ", ".join(f"{label} ({candidate.recalls[label]:.2f})" for label in labels)
    return f"recall below {rule.collapse_recall} on {named}"


def describe_rule(rule: EvaluationSettings) -> str:
    """The rule in a sentence."""
    return (
        "A challenger replaces the champion when its validation accuracy is higher by "
        f"{rule.promotion_margin * 100:g} points, or at most {rule.as_good_within * 100:g} lower with "
        f"{rule.much_cheaper:g} times fewer parameters, and no label falls below a recall of {rule.collapse_recall:g} "
        "that the champion recognises."
    )
