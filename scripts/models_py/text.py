"""Text for the small models, made from word lists and syllables: statements, questions about them, and whole prompts.

The copy model is to learn one skill: find the memory that a question is about and repeat it. A fixed set of facts would
be learnt by heart, so nearly every name and value here is a new word made of syllables, and a part of the relations and
things are such words too: what stays constant is only that a question shares words with its memory.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import held_out, sentences

SYLLABLE_ONSETS = (
    "b c d f g h j k l m n p r s t v w y z br cr dr fr gr pr tr bl cl fl gl pl sl st sp sk sh ch th qu".split()
    + [""] * 4
)
SYLLABLE_VOWELS = "a e i o u a e i o u ai ea ee ia ie oa oo ou ay y".split()
SYLLABLE_CODAS = "n r l s t m d k p x ck nd nt rn st th ng rt sh ll ss".split() + [""] * 22

FIRST_NAMES = """Anna Ben Clara David Elena Felix Grace Hugo Ivy Jonas Kira Liam Maria Nora Oscar Paula Quentin Rosa Samuel
Tina Umar Vera Walter Xenia Yusuf Zoe Adam Bella Carlos Diana Erik Fiona Georg Hanna Igor Julia Karl Lena Martin Nadia
Otto Petra Ralf Sara Tom Ursula Victor Wanda Melanie Andrew James John Joanna Nate Deborah Evan Gina Audrey Calvin Dave
Tim Sam Jolene Anthony Sofia Peter Paul Emma Olivia Noah Lucas Mia Leo Alice Bob Charlie Frank Helen Irene Jack Kate
Laura Mark Nina Oliver Rachel Simon Theo Will Catherine Robert Michael Susan Linda Thomas""".split()

PLACES = """London Paris Berlin Madrid Rome Vienna Oslo Dublin Lisbon Prague Warsaw Athens Boston Chicago Denver Austin
Toronto Sydney Tokyo Cairo Lagos Lima Seoul Mumbai Zurich Geneva Hamburg Munich Milan Naples Porto Seville Bergen
Sweden Norway France Spain Italy Poland Greece Canada Brazil Chile Kenya India Japan Germany Ireland Portugal Turkey""".split()

COLOURS = """red blue green yellow purple orange pink brown black white grey silver gold violet turquoise maroon beige
crimson scarlet navy indigo olive amber ivory lavender magenta""".split()

ANIMALS = """dog cat horse rabbit parrot hamster turtle goat sheep cow duck goose owl fox pony snake lizard spider
goldfish puppy kitten canary ferret donkey hen rooster""".split()

FOODS = """pizza soup bread cheese rice pasta noodles salad cake apples pears cherries plums honey pancakes dumplings
curry tacos sushi chocolate coffee tea lemonade milk juice peanuts shrimp eggs mushrooms olives strawberries tomatoes
onions garlic butter yoghurt waffles stew lentils beans""".split()

JOBS = """teacher doctor nurse baker painter farmer pilot lawyer plumber carpenter engineer writer singer dancer gardener
librarian mechanic chef tailor dentist journalist programmer scientist architect electrician photographer accountant
counselor musician""".split()

HOBBIES = """chess tennis football swimming running climbing hiking pottery painting knitting reading cycling rowing
fishing sailing skiing dancing gardening baking archery fencing yoga judo golf hockey surfing camping drawing""".split()

INSTRUMENTS = "piano guitar violin flute drums cello harp trumpet clarinet accordion banjo oboe organ saxophone".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

MONTHS = "January February March April May June July August September October November December".split()

THINGS = """car house garden kitchen office bicycle boat lamp table chair desk phone laptop printer camera clock watch
ring bag book letter map key umbrella coat hat piano guitar ladder tent bridge tower river lake mountain forest island
village city town country street station airport hotel museum library school church castle theatre bakery bank shop
market restaurant café factory project team server router door gate safe box drawer cupboard shelf train bus ship ferry
plane engine machine robot wallet passport ticket package parcel recipe garage basement attic roof bedroom bathroom
window fridge oven kettle painting statue bottle jar basket candle blanket mirror carpet sofa""".split()

ATTRIBUTES = """name colour color capital price age height weight size length width birthday address password code number
owner author leader director president king queen mayor captain coach doctor teacher boss manager partner husband wife
brother sister mother father son daughter uncle aunt cousin friend neighbour neighbor dog cat horse pet car bicycle house
job hobby sport team band song film movie book drink food dish fruit meal dessert snack flower tree animal bird season
month day number|favourite colour|favorite color|favourite food|favorite food|favourite book|favorite book|favourite song
|favourite film|favorite movie|favourite animal|favourite drink|favourite season|favourite place|favourite city
|phone number|room number|flight number|order number|account number|house number|locker number|seat number|bus number
|door code|gate code|alarm code|entry code|access code|PIN code|zip code|project code|wifi password|email password
|wifi name|login name|user name|middle name|last name|first name|nickname|maiden name|code name|pet name|blood type
|shoe size|ring size|best friend|lucky number|home town|hometown|birth place|street address|email address|postal code
|opening time|closing time|due date|start date|end date|wedding date|release date|meeting time|departure time|main river
|highest mountain|largest city|official language|currency|population|flag|motto|anthem|language|religion|founder
|main street|head office|chief engineer|project leader|chief editor|lead singer|spare key|secret word|safe word|secret
ingredient|main ingredient|licence plate|license plate|serial number|model number|version|budget|salary|rent|deadline
|temperature|speed|depth|distance|score|record|goal|plan|dream|fear|talent|nationality|school|university|subject|degree""".replace(
    "\n", " "
)
ATTRIBUTES = [a.strip() for part in ATTRIBUTES.split("|") for a in ([part] if len(part.split()) < 4 else part.split())]

SYSTEMS = """You are a helpful assistant.|Answer from the memories.|Use the memories below to answer the question.|Be brief.
|You are a friendly helper. Answer in one sentence.|Answer the question with the help of the memories.|Keep it short.
|You remember what people told you. Answer from memory.|Reply in plain English.|Answer truthfully.""".replace(
    "\n", ""
).split("|")


@dataclass(frozen=True)
class Fact:
    """A statement, the questions that ask for it, the words that answer them, and what makes it distinct in a prompt."""

    statement: str
    questions: tuple[str, ...]
    value: str
    subject: tuple[str, ...]


# Letters-only pieces of the vocabulary, once there is one. Words made of them teach the model to copy every piece, also
# those that the syllables make seldom.
STEMS: list[str] = []


def word(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """A word of `low` to `high` syllables or pieces that most likely exists nowhere."""
    if STEMS and rng.random() < 0.3:
        return "".join(rng.choice(STEMS) for _ in range(rng.randint(low, high)))
    return "".join(
        rng.choice(SYLLABLE_ONSETS) + rng.choice(SYLLABLE_VOWELS) + rng.choice(SYLLABLE_CODAS)
        for _ in range(rng.randint(low, high))
    )


def name(rng: random.Random) -> str:
    """A proper name, mostly an invented one."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(FIRST_NAMES)
    if kind < 0.45:
        return rng.choice(PLACES)
    if kind < 0.5:
        return word(rng).capitalize() + " " + word(rng).capitalize()
    return word(rng).capitalize()


def clock(rng: random.Random) -> str:
    """A time of day."""
    return rng.choice(
        (f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}", f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}", "noon")
    )


def date(rng: random.Random) -> str:
    """A day, a date or a year."""
    day, month, year = rng.randint(1, 31), rng.choice(MONTHS), rng.randint(1700, 2040)
    return rng.choice((f"{day} {month}", f"{month} {day}", f"{day} {month} {year}", str(year), rng.choice(DAYS), month))


def code(rng: random.Random) -> str:
    """A password-like value: a word with digits, or a code of letters and digits."""
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 5)))
    letters = "".join(rng.choice("ABCDEFGHKLMNPQRSTUVWXZ") for _ in range(rng.randint(1, 3)))
    return rng.choice(
        (word(rng, 1, 3) + digits, letters + digits, f"{letters}-{digits}", digits, word(rng) + "-" + word(rng))
    )


def number(rng: random.Random) -> str:
    """A number, sometimes with a unit."""
    n = str(rng.randint(1, 10 ** rng.randint(1, 5)))
    return n + rng.choice(
        ("", "", " euros", " dollars", " years", " km", " metres", " kg", " minutes", " percent", " degrees")
    )


def value(rng: random.Random) -> str:
    """What an attribute may be set to."""
    kind = rng.random()
    if kind < 0.30:
        return word(rng).capitalize()
    if kind < 0.42:
        return word(rng)
    if kind < 0.48:
        return word(rng).capitalize() + " " + word(rng).capitalize()
    if kind < 0.60:
        return code(rng)
    if kind < 0.68:
        return number(rng)
    if kind < 0.74:
        return rng.choice((clock, date))(rng)
    if kind < 0.82:
        return rng.choice(COLOURS)
    if kind < 0.90:
        return rng.choice(rng.choice((FOODS, ANIMALS, JOBS, HOBBIES, THINGS)))
    if kind < 0.95:
        return "the " + rng.choice((rng.choice(COLOURS), word(rng))) + " " + rng.choice((rng.choice(THINGS), word(rng)))
    return rng.choice(FIRST_NAMES + PLACES)


def attribute(rng: random.Random) -> str:
    """A relation noun, a third of them invented."""
    kind = rng.random()
    if kind < 0.68:
        return rng.choice(ATTRIBUTES)
    if kind < 0.78:
        return rng.choice(("favourite ", "favorite ", "old ", "new ", "main ", "secret ", "second ")) + word(rng)
    if kind < 0.88:
        return word(rng) + " " + rng.choice(ATTRIBUTES).split()[-1]
    return word(rng)


def thing(rng: random.Random) -> str:
    """A common noun, a third of them invented, sometimes with an adjective."""
    noun = rng.choice(THINGS) if rng.random() < 0.67 else word(rng)
    kind = rng.random()
    if kind < 0.12:
        return f"{rng.choice(COLOURS)} {noun}"
    if kind < 0.2:
        return f"{rng.choice(('old', 'new', 'small', 'big', 'second', 'blue', 'spare', word(rng)))} {noun}"
    return noun


def attribute_of_name(rng: random.Random, who: str, what: str) -> Fact:
    """`who`'s `what` is a value."""
    v = value(rng)
    statement = rng.choice(
        (f"The {what} of {who} is {v}.", f"{who}'s {what} is {v}.", f"{who}'s {what} is {v}.", f"{who}'s {what} is called {v}.",
         f"{who} says that the {what} is {v}.", f"{who}: My {what} is {v}.", f"{who}: my {what} is {v} now.")
    )  # fmt: skip
    questions = (
        f"What is the {what} of {who}?", f"What is {who}'s {what}?", f"What's {who}'s {what}?", f"Tell me {who}'s {what}.",
        f"Do you know the {what} of {who}?", f"Which {what} does {who} have?", f"Who or what is {who}'s {what}?",
        f"Please tell me the {what} of {who}.", f"Can you tell me what {who}'s {what} is?",
    )  # fmt: skip
    return Fact(statement, questions, v, (who, what))


def attribute_of_thing(rng: random.Random, what: str, things: Callable[[random.Random], str] = thing) -> Fact:
    """The `what` of a thing, or plainly the `what`, is a value."""
    v, t = value(rng), things(rng)
    kind = rng.random()
    if kind < 0.35:
        statement = rng.choice(
            (f"The {what} is {v}.", f"My {what} is {v}.", f"Our {what} is {v}.", f"Remember: the {what} is {v}.")
        )
        questions = (f"What is the {what}?", f"What is my {what}?", f"What's the {what}?", f"Tell me the {what}.",
                     f"Do you remember the {what}?", f"What was the {what} again?", f"What is our {what}?")  # fmt: skip
        return Fact(statement, questions, v, ("", what))
    statement = rng.choice(
        (
            f"The {what} of the {t} is {v}.",
            f"The {t}'s {what} is {v}.",
            f"The {what} for the {t} is {v}.",
            f"The {t} {what} is {v}.",
        )
    )
    questions = (
        f"What is the {what} of the {t}?", f"What is the {what} for the {t}?", f"What is the {t} {what}?",
        f"What's the {t}'s {what}?", f"Do you know the {what} of the {t}?", f"Tell me the {what} of the {t}.",
    )  # fmt: skip
    return Fact(statement, questions, v, (t, what))


def place(rng: random.Random) -> str:
    """A town, real or invented."""
    return rng.choice(PLACES) if rng.random() < 0.3 else word(rng).capitalize()


def of(words: list[str], share: float = 0.5) -> Callable[[random.Random], str]:
    """A value that is one of `words` or, for the rest of `share`, an invented one."""
    return lambda r: r.choice(words) if r.random() < share else word(r)


KINDS: dict[str, Callable[[random.Random], str]] = {
    "place": place, "job": of(JOBS), "liking": of(FOODS + HOBBIES), "food": of(FOODS), "instrument": of(INSTRUMENTS),
    "hobby": of(HOBBIES), "colour": of(COLOURS, 0.6), "coloured": lambda r: r.choice(COLOURS) + " " + word(r), "thing": thing,
    "number": number, "date": date, "clock": clock, "moment": lambda r: r.choice((date, clock))(r), "name": name,
    "proper": lambda r: word(r).capitalize(), "word": word, "age": lambda r: str(r.randint(1, 99)),
}  # fmt: skip


def patterns() -> list[tuple[tuple[str, ...], tuple[str, ...], Callable[[random.Random], str]]]:
    """The statements, the questions and the kind of value of each pattern."""
    lines = sentences.PATTERNS.strip().split("\n")
    return [
        (tuple(s.strip().split(" | ")), tuple(q.strip().removeprefix("? ").split(" | ")), KINDS[kind])
        for kind, s, q in zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    ]


SENTENCES = patterns()


def sentence(rng: random.Random, who: str, index: int, things: Callable[[random.Random], str] = thing) -> Fact:
    """A fact of one of the sentence patterns."""
    statements, questions, kind = SENTENCES[index]
    v = kind(rng)
    fill = {
        "n": who, "v": v, "t": things(rng), "w": word(rng, 1, 2), "p": place(rng), "m": rng.choice(MONTHS),
        "d": rng.choice(DAYS), "a": rng.choice(ANIMALS) if rng.random() < 0.7 else word(rng), "f": rng.choice(FIRST_NAMES),
        "k": str(rng.randint(2, 40)), "q": word(rng).capitalize() + " " + word(rng).capitalize(),
    }  # fmt: skip
    statement = rng.choice(statements)
    about = (
        who
        if "{n}" in statement
        else fill["q"]
        if "{q}" in statement
        else fill["w"]
        if "{w}" in statement
        else fill["t"]
    )
    return Fact(statement.format(**fill), tuple(q.format(**fill) for q in questions), v, (about, f"#{index}"))


def related(rng: random.Random, count: int) -> list[str]:
    """Attributes of which several share a word, as "wifi password" and "email password" do."""
    chosen = [attribute(rng) for _ in range(count)]
    while rng.random() < 0.5:
        first, last = rng.choice(chosen).split()[0], rng.choice(chosen).split()[-1]
        other = rng.choice((word(rng), rng.choice(ATTRIBUTES).split()[-1]))
        chosen.append(rng.choice((f"{first} {other}", f"{other} {last}")))
    return chosen


def related_things(rng: random.Random, count: int) -> list[str]:
    """Things of which several share a word, as "spare key" and "spare tyre" do."""
    chosen = [thing(rng) for _ in range(count)]
    first = rng.choice(("spare", "old", "new", "blue", "second", "kitchen", word(rng)))
    return chosen + [f"{first} {rng.choice((rng.choice(THINGS), word(rng)))}" for _ in range(rng.randint(1, 3))]


def facts(rng: random.Random, count: int, dense: bool = False) -> list[Fact]:
    """`count` facts about few names, attributes and patterns, so that none of them alone tells two memories apart; `dense`
    facts are about very few, so that nearly every memory has neighbours that differ from it in one word only."""

    def some() -> int:
        return rng.randint(1, (count + 1) // 2) if dense else max(1, rng.randint(count // 3, count))

    names = [name(rng) for _ in range(some())]
    attributes = related(rng, some())
    patterns = rng.sample(range(len(SENTENCES)), some())
    things = related_things(rng, 1) if dense else []
    shared = 0.9 if dense else 0.6

    def one_thing(rng: random.Random) -> str:
        """A thing of the few, or any."""
        return rng.choice(things) if things else thing(rng)

    chosen: list[Fact] = []
    subjects: set[tuple[str, ...]] = set()
    while len(chosen) < count:
        kind = rng.random()
        if kind < 0.35:
            fact = attribute_of_name(rng, rng.choice(names), rng.choice(attributes))
        elif kind < 0.52:
            fact = attribute_of_thing(rng, rng.choice(attributes), one_thing)
        else:
            who = rng.choice(names) if rng.random() < shared else name(rng)
            fact = sentence(rng, who, rng.choice(patterns), one_thing)
        # A plain "the X is …" beside "the X of Y is …" would leave the question about the first open to both.
        clash = fact.subject in subjects or any(
            s[1] == fact.subject[1] and ("" in (s[0], fact.subject[0])) for s in subjects
        )
        if not clash and not is_held_out(fact.statement):
            subjects.add(fact.subject)
            chosen.append(fact)
        elif rng.random() < 0.3:
            names.append(name(rng))
            attributes.append(attribute(rng))
            patterns.append(rng.randrange(len(SENTENCES)))
            if things:
                things.append(thing(rng))
    return chosen


def lengthened(rng: random.Random, statement: str) -> str:
    """The statement, sometimes with more around it."""
    kind = rng.random()
    if kind < 0.08:
        return f"{statement} {rng.choice(('It was', 'That is', 'We heard it', 'They said so'))} in {place(rng)}."
    if kind < 0.14:
        return f"{statement} {' '.join(word(rng, 1, 2) for _ in range(rng.randint(2, 8))).capitalize()}."
    if kind < 0.18 and ": " not in statement:
        return f"{rng.choice(FIRST_NAMES)}: {statement}"
    return statement


def is_held_out(text: str) -> bool:
    """Whether `text` has a word of the held-out facts."""
    return any(w.strip(".,:;?!'\"").removesuffix("'s") in held_out.WORDS for w in text.split())


def prompt(memories: list[str], question: str, system: str = "") -> str:
    """The user turn as the module writes it."""
    head = system + "\n\n" if system else ""
    return head + "Memories:\n" + "".join(f"- {m}\n" for m in memories) + "\n" + question


def answer(memory: str) -> str:
    """What the copy model says. The opening puts a space before the memory, as in the prompt: so both have the same pieces."""
    return "I remember: " + memory


UNKNOWN = "I do not know."


def noise(rng: random.Random) -> str:
    """A line of prose-like text for the vocabulary: spaces, indents, punctuation, digits and a few accents."""
    words = [
        word(rng, 1, 3) if rng.random() < 0.5 else rng.choice(THINGS + ATTRIBUTES + FOODS)
        for _ in range(rng.randint(3, 12))
    ]
    line = " ".join(words).capitalize() + rng.choice((".", "!", "?", "…", ";", " — yes.", ", no?", " (no)"))
    return rng.choice(("", "", "", "    ", "  ")) + line.replace(
        "ee", rng.choice(("ee", "ee", "é", "ü", "ñ", "ö", "ä"))
    )
