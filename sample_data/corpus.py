"""Words and small helpers shared by ``make_pairs.py`` and ``train_model.py``.

Everything here was written for this project. A review sentence is put together from a domain
(food, people, rooms, stories, devices) and a tone. This module writes no files.
"""

from __future__ import annotations

from dataclasses import dataclass

TONES = ("positive", "negative")


@dataclass(frozen=True)
class Domain:
    """One kind of thing that people review, with the words that fit it."""

    subjects: tuple[str, ...]
    adjectives: dict[str, tuple[str, ...]]
    closers: dict[str, tuple[str, ...]]


DOMAINS: dict[str, Domain] = {
    "food": Domain(
        subjects=("soup", "pasta", "bread", "curry", "fish", "sauce", "rice dish", "breakfast"),
        adjectives={
            "positive": ("tasty", "delicious", "excellent", "just right", "full of flavour"),
            "negative": ("bland", "disgusting", "burnt", "tasteless", "far too salty"),
        },
        closers={
            "positive": ("I asked for more.", "We left no crumbs.", "I will order it again."),
            "negative": ("I left most of it.", "We ate at home later.", "I felt ill afterwards."),
        },
    ),
    "people": Domain(
        subjects=("waiter", "receptionist", "driver", "guide", "shop assistant", "owner", "nurse"),
        adjectives={
            "positive": ("kind", "patient", "helpful", "friendly", "polite"),
            "negative": ("rude", "careless", "impatient", "unhelpful", "bad-tempered"),
        },
        closers={
            "positive": ("I left a large tip.", "It made our day.", "I said thank you twice."),
            "negative": ("I left no tip.", "It spoiled our day.", "I made a complaint."),
        },
    ),
    "rooms": Domain(
        subjects=("bedroom", "bathroom", "lobby", "pool", "terrace", "kitchen", "dining room"),
        adjectives={
            "positive": ("clean", "spotless", "bright", "spacious", "cosy"),
            "negative": ("dirty", "damp", "gloomy", "cramped", "smelly"),
        },
        closers={
            "positive": ("I slept very well.", "We stayed an extra night.", "It felt like home."),
            "negative": (
                "I hardly slept.",
                "We left a night early.",
                "It was not worth the price.",
            ),
        },
    ),
    "stories": Domain(
        subjects=("book", "film", "play", "series", "novel", "documentary", "short story"),
        adjectives={
            "positive": ("gripping", "moving", "clever", "charming", "beautifully told"),
            "negative": ("dull", "tedious", "predictable", "confusing", "badly told"),
        },
        closers={
            "positive": ("I stayed up all night.", "I cried at the end.", "I told all my friends."),
            "negative": ("I gave up halfway.", "I fell asleep.", "I want those hours back."),
        },
    ),
    "devices": Domain(
        subjects=("phone", "laptop", "printer", "camera", "kettle", "radio", "washing machine"),
        adjectives={
            "positive": ("reliable", "sturdy", "handy", "well made", "easy to use"),
            "negative": ("faulty", "flimsy", "useless", "badly made", "hard to use"),
        },
        closers={
            "positive": (
                "It works every time.",
                "I bought a second one.",
                "It was worth the money.",
            ),
            "negative": ("It broke in a week.", "I sent it back.", "It was a waste of money."),
        },
    ),
}


def opposite(tone: str) -> str:
    """Return the other tone."""
    return TONES[1] if tone == TONES[0] else TONES[0]


def tone_prompt(review: str) -> str:
    """Return the prompt whose next word is the tone of ``review``."""
    return f"Review: {review}\nThe tone of this review is"
