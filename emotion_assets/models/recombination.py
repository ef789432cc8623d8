"""New texts out of those there are: the beginning of one and the end of another, joined at a word that both have.

They have no label of their own; a teacher gives them one. So a student sees how its teacher decides on many more texts
than were ever labelled, of the same language. Crossing texts over is the augmentation of Luque 2019, "Atalaya at TASS
2019" (https://arxiv.org/abs/1909.11241); generated texts for distillation are those of Tang et al. 2019, "Distilling
Task-Specific Knowledge from BERT into Simple Neural Networks" (https://arxiv.org/abs/1903.12136).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

JOINTS = 150
"""Texts are joined at the words that are in most of them: and, that, because, to ..."""
TRIES = 10
"""For each text that is wanted: where texts are few or share few words, fewer come out."""


def recombine(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """At most ``count`` distinct new texts, none of them in ``texts``. The same seed gives the same texts.

    Words are what stands between spaces. A new text has at most as many as the longer of the two that it comes from.
    Texts without a word in common, or of a language that does not put spaces between words, give none.
    """
    draw = random.Random(seed)
    some = texts if len(texts) <= count else draw.sample(list(texts), count)
    split = [text.split() for text in some]
    common = Counter(word for words in split for word in dict.fromkeys(words)).most_common(JOINTS)
    joints = {word for word, occurrences in common if occurrences > 1}
    inside = [[i for i in range(1, len(words) - 1) if words[i] in joints] for words in split]
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, found in enumerate(inside):
        for i in found:
            places[split[number][i]].append((number, i))
    beginnings = [number for number, found in enumerate(inside) if found]
    known = set(texts)
    made: list[str] = []
    for _ in range(TRIES * count if beginnings else 0):
        first = draw.choice(beginnings)
        end = draw.choice(inside[first])
        second, begin = draw.choice(places[split[first][end]])
        words = split[first][:end] + split[second][begin:]
        text = " ".join(words)
        if len(words) <= max(len(split[first]), len(split[second])) and text not in known:
            known.add(text)
            made.append(text)
            if len(made) == count:
                break
    return made
