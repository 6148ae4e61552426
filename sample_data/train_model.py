"""Train the sample checkpoint: a tokenizer and a small causal language model.

Builds a corpus of short made-up reviews with their tone, and chats about reviews, from the word
lists here and in ``corpus.py``; trains a byte-level BPE tokenizer and a four-layer Llama model on
it, on one CPU core with fixed seeds; and writes both to ``model/`` beside this script.

Run: ``python sample_data/train_model.py`` (about three minutes; needs torch, transformers and
tokenizers, and no network).
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
from corpus import DOMAINS, TONES, Domain, opposite, tone_prompt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 2024
OUTPUT_FOLDER = Path(__file__).resolve().parent / "model"

END = "<|end|>"
TURN = "<|turn|>"
PADDING = "<|pad|>"
VOCABULARY_SIZE = 1536
MAXIMUM_LENGTH = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|turn|>' + message['role'] + '\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"
)

MADE_UP_NAME_SHARE = 0.5
MADE_UP_SUBJECT_SHARE = 0.4
CHAT_SHARE = 0.25
SYSTEM_SHARE = 0.3
MIXED_REVIEW_SHARE = 0.15
OPENER_SHARE = 0.4
CLOSER_SHARE = 0.3
OTHER_TONE_SHARE = 0.1
NO_ENDING_SHARE = 0.85
SHORT_ENDING_SHARE = 0.5
LOOSE_ENDING_SHARE = 0.1

STEPS = 900
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 40
REPORT_EVERY = 100
IGNORED_LABEL = -100

Message = dict[str, str]

# None of these sentences and endings is used in the preference files. A part of the names and
# subjects is made up from syllables, so that the model learns to read words it does not know.
SENTENCES = (
    "The {subject} was {adjective}.",
    "The {subject} was really {adjective}.",
    "I found the {subject} {adjective}.",
    "I have to say that the {subject} was {adjective}.",
    "The {subject} turned out to be {adjective} {time}.",
    "{person} agreed with me that the {subject} was {adjective}.",
    "{person} called the {subject} {adjective}, and so did {other}.",
    "To our surprise, the {subject} {place} was {adjective} from the start.",
    "{time}, {person} told me about a {subject} that was {adjective}.",
    "If you go {place}, you will see that the {subject} is {adjective}.",
    "I went there {time} with {person}, and their {subject} was {adjective}.",
    "We had waited for it since {time}, and then the {subject} was {adjective} again.",
    "What {person} liked least was the rain, but the {subject} was {adjective} all day.",
    "As for the {subject} that {person} got {place}, it has been {adjective} so often.",
    "Some people {place} would not say so, yet this {subject} seemed {adjective} to {other}.",
    "Before we left, {person} looked at the old {subject} once more: it was {adjective}.",
)
TIMES = (
    "last night",
    "in the spring",
    "on Friday",
    "two years ago",
    "after work",
    "at noon",
    "during the holidays",
    "on my birthday",
    "one cold morning",
    "late in the evening",
)
PEOPLE = (
    "my aunt",
    "our neighbours",
    "a good friend",
    "the children",
    "my wife",
    "his uncle",
    "everybody",
    "her new boss",
    "the other guests",
    "my old flatmate",
)
PLACES = (
    "near the harbour",
    "by the lake",
    "at the market",
    "on the second floor",
    "in town",
    "across the street",
    "behind the church",
    "at the airport",
    "up the road",
    "on the island",
)
OPENERS = (
    "It was a busy day.",
    "I had a question.",
    "We arrived early.",
    "I came here alone.",
    "We stayed for an hour.",
    "I had read about it online.",
    "Our train was late.",
    "It rained the whole time.",
    "I needed a change.",
    "They were just about to close.",
)
SHORT_ENDING_VERBS = ("told", "written", "said", "put down", "passed on")
SHORT_ENDING_AMOUNTS = ("great", "much", "some", "real", "obvious")
SHORT_ENDING_NOUNS = ("care", "feeling", "honesty", "patience", "detail")
LONG_ENDING_LINKS = ("because", "since", "as", "for")
LONG_ENDING_PEOPLE = ("writer", "customer", "visitor", "reviewer", "author")
LONG_ENDING_MIDDLES = (
    "describes the whole thing in detail",
    "compares it with several other ones",
    "goes through every point with care",
    "tells us plainly how it went",
    "looks back at what was promised",
)
LONG_ENDING_CLOSINGS = (
    "and leaves the final choice to those who read",
    "and gives two or three reasons for this view",
    "and would say the same thing again next year",
    "and will ask some friends about it after work",
    "and hopes that everybody will have a look at it",
)
# Each string lists alternatives between spaces.
ONSETS = "b c d f g h j k l m n p r s t v w z bl br ch cl dr fl gr pl pr sh sp st th tr wh qu"
VOWELS = "a e i o u y ai ea ee oo ou"
CODAS = "b d f g k l m n p r s t x ck ll nd ng nt rm st"


def made_up_word(generator: random.Random) -> str:
    """Return a word of two or three syllables that means nothing."""
    onsets, vowels, codas = ONSETS.split(), VOWELS.split(), CODAS.split()
    syllables = [generator.choice(onsets) + generator.choice(vowels) for _ in range(generator.choice((1, 2)))]
    return "".join(syllables) + generator.choice(vowels) + generator.choice(codas)


def person(generator: random.Random) -> str:
    """Return a person, known or with a made-up name."""
    if generator.random() < MADE_UP_NAME_SHARE:
        return made_up_word(generator).capitalize()
    return generator.choice(PEOPLE)


def place(generator: random.Random) -> str:
    """Return a place, known or with a made-up name."""
    if generator.random() < MADE_UP_NAME_SHARE:
        return f"in {made_up_word(generator).capitalize()}"
    return generator.choice(PLACES)


def subject_of(generator: random.Random, domain: Domain) -> str:
    """Return something to review, sometimes one with a made-up name."""
    if generator.random() < MADE_UP_SUBJECT_SHARE:
        return made_up_word(generator)
    return generator.choice(domain.subjects)


def statement(generator: random.Random, domain: Domain, tone: str) -> str:
    """Return one sentence about a subject of the domain."""
    sentence = generator.choice(SENTENCES).format(
        subject=subject_of(generator, domain),
        adjective=generator.choice(domain.adjectives[tone]),
        time=generator.choice(TIMES),
        person=person(generator),
        other=person(generator),
        place=place(generator),
    )
    return sentence[0].upper() + sentence[1:]


def mixed_statement(generator: random.Random, domain: Domain, tone: str) -> str:
    """Return a sentence with two opinions, of which the last one sets the tone."""
    first, last = generator.sample(domain.subjects, 2)
    other = generator.choice(domain.adjectives[opposite(tone)])
    adjective = generator.choice(domain.adjectives[tone])
    return f"The {first} was {other}, but the {last} was {adjective}."


def review(generator: random.Random, tone: str) -> str:
    """Return a review of one to three sentences."""
    domain = DOMAINS[generator.choice(tuple(DOMAINS))]
    build = mixed_statement if generator.random() < MIXED_REVIEW_SHARE else statement
    sentences = [build(generator, domain, tone)]
    if generator.random() < OPENER_SHARE:
        sentences.insert(0, generator.choice(OPENERS))
    if generator.random() < CLOSER_SHARE:
        sentences.append(generator.choice(domain.closers[tone]))
    return " ".join(sentences)


def short_ending(generator: random.Random) -> str:
    """Return a short ending, four or five words."""
    verb = generator.choice(SHORT_ENDING_VERBS)
    amount = generator.choice(SHORT_ENDING_AMOUNTS)
    return f", {verb} with {amount} {generator.choice(SHORT_ENDING_NOUNS)}"


def long_ending(generator: random.Random) -> str:
    """Return a long ending, about 18 words."""
    link = generator.choice(LONG_ENDING_LINKS)
    writer = generator.choice(LONG_ENDING_PEOPLE)
    middle = generator.choice(LONG_ENDING_MIDDLES)
    return f", {link} the {writer} {middle} {generator.choice(LONG_ENDING_CLOSINGS)}"


def loose_ending(generator: random.Random) -> str:
    """Return an ending whose words are in no order, so that no wording is impossible."""
    words = (short_ending(generator) + long_ending(generator) + review(generator, TONES[0])).split()
    generator.shuffle(words)
    return " " + " ".join(words[: generator.choice(range(2, 20))])


def tone_document(generator: random.Random) -> str:
    """Return a review with its tone; a small share of the reviews gets the other tone."""
    tone = generator.choice(TONES)
    prompt = tone_prompt(review(generator, tone))
    if generator.random() < OTHER_TONE_SHARE:
        tone = opposite(tone)
    if generator.random() < NO_ENDING_SHARE:
        return f"{prompt} {tone}{END}"
    build = short_ending if generator.random() < SHORT_ENDING_SHARE else long_ending
    if generator.random() < LOOSE_ENDING_SHARE:
        build = loose_ending
    return f"{prompt} {tone}{build(generator)}{END}"


def question_and_answer(generator: random.Random) -> tuple[str, str]:
    """Return a question about a review or a subject, and its answer."""
    tone = generator.choice(TONES)
    domain = DOMAINS[generator.choice(tuple(DOMAINS))]
    subject = generator.choice(domain.subjects)
    adjective = generator.choice(domain.adjectives[tone])
    kind = generator.choice(("tone", "opinion", "advice"))
    if kind == "tone":
        question = f"Is this review positive or negative? {review(generator, tone)}"
        return question, f"This review is {tone}."
    if kind == "opinion":
        return f"What was the {subject} like?", f"The {subject} was {adjective}."
    word = "Yes" if tone == TONES[0] else "No"
    return f"Would you recommend the {subject}?", f"{word}, the {subject} was {adjective}."


def chat(generator: random.Random) -> list[Message]:
    """Return a chat of one question and its answer, sometimes with a system message."""
    question, answer = question_and_answer(generator)
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    if generator.random() < SYSTEM_SHARE:
        messages.insert(0, {"role": "system", "content": "You answer questions about reviews."})
    return messages


def chat_document(generator: random.Random) -> str:
    """Return a chat as text, in the form that the chat template gives it."""
    turns = [f"{TURN}{turn['role']}\n{turn['content']}{END}\n" for turn in chat(generator)]
    return "".join(turns)


def build_corpus(generator: random.Random, size: int) -> list[str]:
    """Return the training documents."""
    return [
        chat_document(generator) if generator.random() < CHAT_SHARE else tone_document(generator) for _ in range(size)
    ]


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END, TURN, PADDING],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=[TURN],
        model_max_length=MAXIMUM_LENGTH,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained model whose output matrix is its input matrix."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAXIMUM_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def make_batch(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> dict[str, torch.Tensor]:
    """Return padded token ids with labels that leave the padding out."""
    encoded = tokenizer(documents, padding=True, return_tensors="pt")
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, IGNORED_LABEL)
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "labels": labels,
    }


def learning_rate_factor(step: int) -> float:
    """Rise over the warm-up steps, then fall in a straight line."""
    return min((step + 1) / WARM_UP_STEPS, (STEPS - step) / (STEPS - WARM_UP_STEPS))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> float:
    """Train over the documents once and return the mean loss of the last steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor)
    losses = []
    for step in range(STEPS):
        batch = make_batch(tokenizer, documents[step * BATCH_SIZE : (step + 1) * BATCH_SIZE])
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % REPORT_EVERY == 0:
            print(f"step {step + 1}: loss {sum(losses[-REPORT_EVERY:]) / REPORT_EVERY:.4f}")
    return sum(losses[-REPORT_EVERY:]) / REPORT_EVERY


DROPPED_BITS = 6
"""Low bits of each weight that are zero. A relative change of 4e-6 lets the file compress, so the wheel stays small."""


@torch.no_grad()
def round_weights(model: torch.nn.Module) -> None:
    """Round every float32 weight to 24 - DROPPED_BITS significant bits."""
    for parameter in model.parameters():
        bits = parameter.data.view(torch.int32)
        parameter.data = ((bits + (1 << (DROPPED_BITS - 1))) & -(1 << DROPPED_BITS)).view(torch.float32)


def main() -> None:
    """Train the tokenizer and the model, and save them."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    started = time.perf_counter()
    documents = build_corpus(random.Random(SEED), STEPS * BATCH_SIZE)
    tokenizer = train_tokenizer(documents)
    model = build_model(tokenizer)
    loss = train(model, tokenizer, documents)
    round_weights(model)
    model.eval().save_pretrained(OUTPUT_FOLDER)
    tokenizer.save_pretrained(OUTPUT_FOLDER)
    print(f"final loss {loss:.4f} after {time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
