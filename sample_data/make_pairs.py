"""Write the three sample preference files, one for each setting of the paper.

Writes ``one_token.jsonl``, ``short_ending.jsonl`` and ``long_ending.jsonl`` beside this script:
100 rows each, with the same prompts and the same differing word, and no ending, a short shared
ending or a long shared ending after that word. Running it again writes the same bytes.

Run: ``python sample_data/make_pairs.py``
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from corpus import DOMAINS, TONES, opposite, tone_prompt

SEED = 20250424
OUTPUT_FOLDER = Path(__file__).resolve().parent
FILE_NAMES = ("one_token.jsonl", "short_ending.jsonl", "long_ending.jsonl")
ROWS_PER_DOMAIN_AND_TONE = 10

# Subjects and sentences that the training corpus does not use.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "food": ("omelette", "sandwich", "pancake", "pizza", "apple pie"),
    "people": ("dentist", "barber", "mechanic", "plumber", "ticket inspector"),
    "rooms": ("balcony", "sauna", "studio", "cabin", "guest house"),
    "stories": ("musical", "thriller", "biography", "comedy", "puppet show"),
    "devices": ("toaster", "tablet", "headset", "blender", "lawn mower"),
}
SENTENCES: dict[str, tuple[str, ...]] = {
    "food": (
        "After a long walk in the hills, the {subject} they served us was {adjective}.",
        "My daughter picked the {subject} from the menu and it was {adjective}.",
        "Nobody at our table expected it, but the {subject} was {adjective} that evening.",
    ),
    "people": (
        "I had heard mixed things before, yet the {subject} I met was {adjective}.",
        "The {subject} who looked after me last week was {adjective} all morning.",
        "Both times that I had to wait, the {subject} was {adjective} with me.",
    ),
    "rooms": (
        "Behind the old station we found a {subject} that was {adjective}.",
        "The photographs were years old, and the {subject} we got was {adjective}.",
        "When my parents opened the door, the {subject} seemed {adjective} to them.",
    ),
    "stories": (
        "My teacher recommended this {subject}, which I thought was {adjective}.",
        "On the flight to Lisbon I tried a new {subject} and it was {adjective}.",
        "At the village hall they put on a {subject} that was {adjective} throughout.",
    ),
    "devices": (
        "Since last winter we have used this {subject} daily, and it is {adjective}.",
        "The {subject} that my neighbour sold me has proved {adjective} so far.",
        "Out of the box, the {subject} already seemed {adjective} to my husband.",
    ),
}


# Endings that the training corpus does not use; they fit either tone.
SHORT_ENDINGS = (
    ", told in real detail",
    ", said with feeling",
    ", put down in detail",
    ", said the visitor",
    ", told from the start",
    ", written with care",
    ", in my own words",
    ", as the customer told us",
)
LONG_ENDING_OPENINGS = (
    ", as everybody will see who looks",
    ", as you can tell once you look",
    ", or so it seems when I look",
    ", and friends agree after a look",
)
LONG_ENDING_MIDDLES = (
    "at the reasons that come first",
    "at what was said about that day",
    "at the way it was told",
)
LONG_ENDING_CLOSINGS = (
    "with patience and some care",
    "two or three times",
    "late in the evening at home",
    "without any other thing to read",
)


def domain_reviews(generator: random.Random, domain: str, tone: str) -> list[str]:
    """Return different review sentences of one domain and tone."""
    reviews = [
        sentence.format(subject=subject, adjective=adjective)
        for sentence in SENTENCES[domain]
        for subject in SUBJECTS[domain]
        for adjective in DOMAINS[domain].adjectives[tone]
    ]
    return generator.sample(reviews, ROWS_PER_DOMAIN_AND_TONE)


def all_reviews(generator: random.Random) -> list[tuple[str, str]]:
    """Return the shuffled (review, tone) list, half of it positive."""
    reviews = [
        (review, tone) for domain in DOMAINS for tone in TONES for review in domain_reviews(generator, domain, tone)
    ]
    generator.shuffle(reviews)
    return reviews


def long_ending(generator: random.Random) -> str:
    """Return one of the long endings, 16 to 20 words."""
    parts = (LONG_ENDING_OPENINGS, LONG_ENDING_MIDDLES, LONG_ENDING_CLOSINGS)
    return " ".join(generator.choice(part) for part in parts)


def make_row(review: str, tone: str, ending: str) -> dict[str, str]:
    """Return one preference pair: the right tone is chosen, the other one rejected."""
    return {
        "prompt": tone_prompt(review),
        "chosen": f" {tone}{ending}",
        "rejected": f" {opposite(tone)}{ending}",
    }


def make_files() -> dict[str, list[dict[str, str]]]:
    """Return the rows of every file, by file name."""
    generator = random.Random(SEED)
    files: dict[str, list[dict[str, str]]] = {name: [] for name in FILE_NAMES}
    for review, tone in all_reviews(generator):
        endings = ("", generator.choice(SHORT_ENDINGS), long_ending(generator))
        for rows, ending in zip(files.values(), endings, strict=True):
            rows.append(make_row(review, tone, ending))
    return files


def main() -> None:
    """Write the three files."""
    for name, rows in make_files().items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (OUTPUT_FOLDER / name).write_text(lines, encoding="utf-8", newline="\n")
        print(f"{name}: {len(rows)} pairs")


if __name__ == "__main__":
    main()
