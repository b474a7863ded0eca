"""Trains the model that writes facts: windows of a conversation, answered with what they state as JSON.

The prompt is that of `src/agent/facts/model.rs`, whose instruction is read from the same file. All turns come from the
templates and word lists below, with invented names among them; none is taken from the labelled turns of
`tests/data/extraction`, which the model is judged by.

The instruction is the beginning of every prompt, so it is read once for a whole batch: its keys and values are computed for
one sequence and repeated, with their gradients.
"""

import io
import json
import random
import re
import time
from pathlib import Path

import sentencepiece
import torch
from transformers import DynamicCache, Gemma3ForCausalLM

from . import gemma, text, train, vocabulary

INSTRUCTION = (Path(__file__).parents[2] / "src/agent/facts/instruction.txt").read_text().strip()
PIECES = 3072
SHAPE = train.SHAPE | {"vocabulary": PIECES, "width": 128, "feed_forward": 256}
PREFIX = INSTRUCTION + "\n\nConversation:\n"
TOKENS_PER_STEP = 2560
TOKENS = 6_000_000

NAMES = text.FIRST_NAMES + """Amara Anders Beatriz Bram Callum Chloe Dmitri Elif Farah Gustav Hana Idris Ilka Jamal Kofi Leila
Malik Mina Nils Omar Priya Rafael Runa Sami Tariq Uma Viktor Wren Ximena Yara Zane Zoltan Agnes Bilal Cora Desta""".split()
SURNAMES = "Smith Lopez Berg Okafor Novak Tanaka Silva Weber Khan Rossi Meyer Olsen Kaya Dubois Patel Moreau".split()
COUNTRIES = "Sweden Norway France Spain Italy Poland Greece Canada Brazil Chile Kenya India Japan Peru Ghana Wales".split()
JOBS = text.JOBS + """data analyst|project manager|taxi driver|software developer|primary school teacher|night nurse|pastry chef
|head gardener|civil engineer|research assistant|tour guide|sound technician|violin teacher|truck driver|midwife|baker|barista
|translator|paramedic|web designer|tax advisor|physiotherapist|bus driver|product manager|sous chef|welder""".replace("\n", "").split("|")
LANGUAGES = """English French German Spanish Italian Portuguese Japanese Mandarin Korean Russian Arabic Hindi Dutch Swedish
Danish Polish Turkish Greek Welsh Hebrew Catalan Finnish Czech Urdu""".split()
DIETS = "vegan vegetarian keto halal kosher pescatarian gluten-free paleo".split()
LIKES = """hiking|swimming in lakes|jazz|old maps|black coffee|crime novels|board games|rainy days|spicy food|baking bread|opera
|gardening|horror films|thunderstorms|street photography|museums|silent films|sour cherries|knitting|camping|early mornings|folk music
|bird watching|karaoke|long train rides|olives|crossword puzzles|dark chocolate|science fiction|cooking for friends|small talk
|loud bars|raw onions|mushrooms|cold showers|coriander|mondays|open offices|liver|long meetings|techno|salsa dancing""".replace("\n", "").split("|")
ALLERGENS = "nuts peanuts shellfish pollen cats penicillin gluten eggs soy bees latex strawberries dust sesame milk walnuts".split()
GAMES = """football tennis chess guitar piano violin volleyball basketball hockey badminton cello drums golf squash rugby poker
handball flute saxophone trumpet cricket""".split()
THINGS = """car|bike|red bicycle|sailing boat|camper van|piano|grand piano|electric guitar|motorbike|telescope|cargo bike|flat|cottage
|Honda|old Volvo|drone|kayak|sewing machine|Vespa|Tesla|house|van|typewriter|greenhouse|film camera""".replace("\n", "").split("|")
TOOLS = """Python|Rust|Postgres|Redis|Docker|Kubernetes|Neovim|Emacs|Notion|Obsidian|Linux|Kotlin|Figma|Slack|Terraform|Django|Go
|TypeScript|Kafka|Excel|Jira|Grafana|SQLite|GitLab|React|Postgres 15|Ubuntu|Blender|Ableton|Spotify""".replace("\n", "").split("|")
KINDS = "dog cat rabbit parrot hamster tortoise horse pony ferret budgie goldfish puppy kitten".split()
SUBJECTS = """geology|law|medicine|physics|computer science|history|marine biology|nursing|philosophy|architecture|economics
|linguistics|fine arts|mathematics|music theory|psychology|civil engineering""".replace("\n", "").split("|")
PLANS = """running the Oslo marathon|moving to Lisbon|visiting my aunt in Peru|opening a bakery|hiking the Alps|getting married
|starting a podcast|cycling to Vienna|taking a sabbatical|adopting a child|launching the new app|walking the coast path""".replace("\n", "").split("|")
FAVOURITES = {
    "color": text.COLOURS, "food": text.FOODS, "animal": text.ANIMALS, "season": "spring summer autumn winter".split(),
    "city": text.PLACES, "drink": "tea coffee cider lemonade cocoa water".split(), "instrument": text.INSTRUMENTS,
    "film": "Alien Amelie Casablanca Jaws Solaris Vertigo".split(), "sport": "tennis rugby judo rowing".split(),
}  # fmt: skip
EVENTS = """wedding|thesis deadline|driving test|surgery|interview|exam|flight|concert|product launch|move|graduation|dentist
appointment|board meeting|housewarming|audition""".replace("\n", " ").split("|")
RELATIONS = {
    "wife": ["wife"], "husband": ["husband"], "partner": ["partner", "boyfriend", "girlfriend"], "brother": ["brother"],
    "sister": ["sister"], "son": ["son"], "daughter": ["daughter"], "mother": ["mother", "mum", "mom"],
    "father": ["father", "dad"], "friend": ["best friend", "friend"], "roommate": ["roommate", "flatmate"],
    "boss": ["boss", "manager"],
}  # fmt: skip

# `*` marks that it has ended. In templates {v} is the value, {k} a kind of animal or the word for a relation or what has a
# favourite or a date. Those of a third person are below.
SAID = {
    "name": ["I'm {v}", "my name is {v}", "call me {v}", "{v} here", "everybody calls me {v}", "it's {v}, by the way"],
    "age": ["I'm {v} years old", "I just turned {v}", "I'm {v} now", "I turn {v} on Sunday", "I'm {v}, can you believe it"],
    "birthday": ["my birthday is {v}", "I was born on {v}", "my birthday is on {v}", "birthday's {v}"],
    "lives_in": ["I live in {v}", "I moved to {v}", "we've just moved to {v}", "I'm living in {v} now", "home is {v} these days",
        "I'm based in {v}", "we settled in {v}", "{v} since {d}", "I call {v} home", "my flat in {v} is tiny", "we rent a place in {v}",
        "been in {v} for two years now", "I relocated to {v}", "my new address is in {v}", "got the keys to our new flat in {v}", "*I no longer live in {v}",
        "*I used to live in {v}", "{v} is home now", "unpacking boxes in {v}, we live here now"],
    "from": ["I'm from {v}", "I grew up in {v}", "I was born in {v}", "I'm originally from {v}", "I come from {v}",
        "{v} is where I grew up", "my hometown is {v}"],
    "works_as": ["I work as a {v}", "I'm a {v}", "I got a job as a {v}", "I've been a {v} for years", "I started as a {v}",
        "as a {v} I see that daily", "they hired me as a {v}", "*I used to be a {v}", "*I'm not a {v} any more",
        "I was promoted to {v}", "I earn my living as a {v}", "my job as a {v} is hard", "{v} by trade, that's me", "my shift as a {v} starts at six",
        "I trained as a {v}", "you're talking to a {v}", "I'm the new {v}", "my new job: {v}", "*I quit being a {v}"],
    "works_at": ["I work at {v}", "I started at {v}", "I'm working for {v}", "I got the job at {v}", "{v} hired me",
        "my new job at {v} is fun", "*I quit my job at {v}", "*I left {v}", "*I no longer work at {v}", "*{v} let me go",
        "the office at {v} where I work is cold", "I'm still at {v}", "I've been with {v} since {d}", "first week at {v}",
        "I joined {v}", "my boss at {v} is nice", "*last day at {v}", "*they fired me from {v}", "I run the desk at {v}"],
    "studies": ["I study {v}", "I'm studying {v}", "I'm a {v} student", "I major in {v}", "I'm doing a degree in {v}",
        "*I dropped {v}", "I switched to {v}", "*I don't study {v} any more"],
    "studies_at": ["I study at {v}", "I'm a student at {v}", "I got into {v}", "I go to {v}", "I'm in my second year at {v}"],
    "diet": ["I'm {v}", "I went {v}", "I've been {v} for a year", "I eat {v}", "we cook {v} at home", "*I'm not {v} any more",
        "*I stopped being {v}", "make mine {v} please, I always eat that way"],
    "likes": ["I love {v}", "I really like {v}", "I'm a big fan of {v}", "I adore {v}", "I enjoy {v}", "I'm crazy about {v}",
        "{v} makes me happy, always has", "nothing beats {v}", "*I no longer like {v}", "{v}, I can't get enough of it"],
    "dislikes": ["I hate {v}", "I can't stand {v}", "I don't like {v}", "I detest {v}", "{v} is not my thing",
        "{v}, I can't abide it", "I'm not a fan of {v}"],
    "allergic_to": ["I'm allergic to {v}", "I have a {v} allergy", "no {v} for me, I'm allergic", "{v} gives me hives",
        "*I'm no longer allergic to {v}", "skip the {v}, I'm allergic"],
    "speaks": ["I speak {v}", "I'm fluent in {v}", "my {v} is good", "I grew up speaking {v}", "we speak {v} at home"],
    "plays": ["I play {v}", "I play {v} every week", "I've been playing {v} for years", "my {v} lesson is on Tuesday",
        "*I quit {v}", "*I gave up {v}", "*I used to play {v}", "I started playing {v}", "our {v} team trains tonight"],
    "owns": ["I have a {v}", "I bought a {v}", "we own a {v}", "my {v} is in the garage", "*I sold my {v}", "*I sold the {v}",
        "I drive a {v}", "we got ourselves a {v}", "the {v} is ours now", "*our {v} was stolen", "I inherited a {v}", "*I traded in my {v}", "parked the {v}, which is mine, outside",
        "I picked up a {v} yesterday, all mine", "my {v} needs new tyres", "*the {v} is gone, sold it"],
    "uses": ["I use {v}", "we run {v} in production", "we switched to {v}", "our backend is all {v}", "I write everything in {v}",
        "*we stopped using {v}", "*I don't use {v} any more", "*{v} is out", "our team uses {v} for that", "we're on {v} now", "my notes are all in {v}", "*we moved off {v}", "*I ditched {v}",
        "we deploy with {v}", "{v} is what we use", "running {v} at home", "we migrated to {v}"],
    "plan": ["I'm {v} in June", "we're {v} next year", "I'm {v} this summer", "next spring I'm {v}", "we are {v} in October",
        "*I'm not {v} any more"],
    "pet": ["my {k} {v} sleeps all day", "our {k} is called {v}", "I have a {k} named {v}", "{v}, our {k}, ate my shoe",
        "we adopted a {k}, {v}", "{v} is my {k}", "*my {k} {v} died", "I can't leave, {v}, my {k}, is ill", "{v} the {k} kept me awake", "that {k} of ours, {v}, again",
        "{v} barked all night, our poor old {k}", "we buried {v}, our {k}*", "took {v} to the vet, my {k} hates it"],
    "favorite": ["my favorite {k} is {v}", "{v} is my favorite {k}", "my favourite {k} has always been {v}",
        "favorite {k}: {v}", "{v} is my new favorite {k}"],
    "date": ["the {k} is on {v}", "my {k} is {v}", "our {k} was moved to {v}", "{k} is set for {v}", "the {k} starts on {v}"],
}  # fmt: skip
RELATED = ["my {k} {v} is here", "my {k} is called {v}", "{v} is my {k}", "{v}, my {k}, says hi", "I live with my {k} {v}",
    "this is my {k}, {v}", "my {k}'s name is {v}", "*{v} is no longer my {k}", "{v} called, that's my {k}",
    "our {k} {v} visited us", "{v} rang me this morning, my {k} I mean", "*{v} and I are over, he was my {k}", "my {k}, you know {v}, snores",
    "{v} is the best {k} one could have", "dinner with {v}, my {k}", "our new {k} is {v}", "my {k} married, {v} looked lovely"]  # fmt: skip
OF_OTHERS = {
    "lives_in": ["{n} lives in {v}", "{n} moved to {v}", "{n} is living in {v} now", "{n} no longer lives in {v}*"],
    "works_as": ["{n} is a {v}", "{n} works as a {v}", "{n} started as a {v}"],
    "works_at": ["{n} works at {v}", "{n} works for {v}", "{n} left {v}*"],
    "likes": ["{n} loves {v}", "{n} likes {v}"], "dislikes": ["{n} hates {v}", "{n} can't stand {v}"],
    "allergic_to": ["{n} is allergic to {v}"], "plays": ["{n} plays {v}", "{n} quit {v}*"], "speaks": ["{n} speaks {v}"],
    "studies": ["{n} studies {v}", "{n} is studying {v}"], "age": ["{n} is {v} years old", "{n} turned {v}"],
    "diet": ["{n} is {v}", "{n} eats {v}"], "owns": ["{n} owns a {v}", "{n} bought a {v}", "{n} sold the {v}*"],
    "uses": ["{n} uses {v}"], "birthday": ["{n}'s birthday is {v}", "{n} was born on {v}"], "from": ["{n} is from {v}"],
}  # fmt: skip
QUESTIONS = {
    "lives_in": ("Where do you live?", ["In {v}.", "{v}.", "in {v}, since May"]),
    "works_as": ("What do you do for a living?", ["{v}.", "I'm a {v}.", "{v}, why?"]),
    "works_at": ("Where do you work?", ["At {v}.", "{v}."]),
    "age": ("How old are you?", ["{v}.", "{v} since June"]),
    "birthday": ("When is your birthday?", ["{v}.", "on {v}"]),
    "studies": ("What do you study?", ["{v}.", "{v}, second year"]),
    "speaks": ("What languages do you speak?", ["{v}.", "just {v}"]),
    "allergic_to": ("Do you have any allergies?", ["{v}.", "{v}, badly"]),
    "from": ("Where are you from?", ["{v}.", "From {v}."]),
}
QUIET = """do you live in {p}?|have you been to {p}?|I wish I had a {t}|if I lived in {p} I'd be happy|I'm so tired today|what a week
|thanks, that helped a lot|can you book a table for two?|I went to {p} last weekend|the train was late again|{n} says the weather is bad
|I might move to {p}|maybe I'll buy a {t} one day|thinking about getting a {k}|who is {n}?|see you tomorrow|good morning!|lol no idea
|the film was great, we laughed a lot|I like your idea|could you check the report?|what should I cook tonight?|that sounds good to me
|I need a break|is {n} allergic to anything?|should I learn {l}?|they say {p} is lovely|I saw a {k} in the park|my back hurts
|the meeting was moved|I'd love to be a {j}|would you live in {p}?|imagine owning a {t}|everyone here plays {g}, it seems|I called {n} back
|{p} was freezing|we had {f} for lunch|the {t} in the shop window was lovely|do you play {g}?|remind me tomorrow at nine
|the kids next door were loud all night|nobody told me about the door|we laughed until the lights went out|the soup needs more salt
|my phone died on the way|{n} forgot the keys again|there was a {k} on the roof, no joke|I'll send you the file later|the bus broke down on the bridge
|I dropped the {f} on the floor|it was raining when we got to {p}|the neighbours painted the {t} green|I finally slept eight hours
|we watched a film about {l} poets|{n} asked me about the {t}|you should have seen the queue at {w}|they opened a new {w} in town
|the {j} on the radio was funny|I read that {g} is popular in {p}|so we waited, and waited, and nothing came|can you remind {n} about the {f}?
|the stairs are still full of boxes|it smells of {f} in here|apparently {n} is late as always|that is the third time this week
|somebody left a {t} in front of the door|I walked home in the dark|the printer ate my paper|I heard {w} is hiring a {j}
|it took two hours to find a place to park|do you want some {f}?|the light in the kitchen flickers|my coat is still wet
|{n} and I talked for hours|the doctor says it is nothing|and then the {k} ran off with it|I told you about the leak, didn't I
|the view from up there, wow|pass me the {f} please|she laughed and closed the window|you would not believe the noise
|what is the capital of {p}?|how do I install {o}?|{o} crashed twice today, annoying|the {k} next door barks|he said he was a {j}""".replace("\n", "").split("|")
BEFORE = """haha, |btw |oh, |well, |ok so |honestly, |so yes, |by the way, |news: |good news, |you know, |long day. |sorry for the delay.
|thanks! |hi! |hm, |let me think. |it rained all day. |the boxes are finally gone. |not sure what else to say. |finally! """.replace("\n", " ").split("|")
BEHIND = """. It's been a long week|, finally|. What do you think?| and it's great|. Anyway, how are you?|, lol|!|.|, since you ask|, as you know
|. Took ages| and I'm happy about it|. See you later|, by the way|. More tomorrow| haha|...""".replace("\n", "").split("|")


def person(rng: random.Random) -> str:
    """A name, often an invented one."""
    return rng.choice(NAMES) if rng.random() < 0.5 else text.name(rng) if rng.random() < 0.3 else text.word(rng).capitalize()


def place(rng: random.Random) -> str:
    """A city, often an invented one, sometimes of two words."""
    if rng.random() < 0.4:
        return rng.choice(text.PLACES)
    word = text.word(rng).capitalize()
    return rng.choice((word, word, word, f"{rng.choice(('New', 'San', 'Port', 'Upper'))} {word}", f"{word} {text.word(rng).capitalize()}"))


def firm(rng: random.Random) -> str:
    """A company."""
    word, other = text.word(rng).capitalize(), text.word(rng).capitalize()
    return rng.choice((word, f"{word} {other}", f"{word} & {rng.choice(SURNAMES)}", f"{word} {rng.choice(('Labs', 'Bank', 'Hospital', 'Bakery', 'Systems', 'Clinic'))}",
        f"St. {rng.choice(NAMES)}'s"))  # fmt: skip


def school(rng: random.Random) -> str:
    """A school."""
    return rng.choice((f"{place(rng)} University", f"the University of {place(rng)}", f"{person(rng)} College", f"{place(rng)} High", f"{place(rng)} Tech"))


def day(rng: random.Random) -> str:
    """A date."""
    month, number = rng.choice(text.MONTHS), rng.randint(1, 28)
    return rng.choice((f"{number} {month}", f"{month} {number}", f"the {number}th of {month}", f"{number} {month} {rng.randint(1950, 2026)}", f"{month} {number}th"))


def value(rng: random.Random, attribute: str) -> str:
    """A value of an attribute."""
    made = {
        "name": person, "lives_in": place, "from": lambda r: rng.choice((place(r), rng.choice(COUNTRIES))),
        "works_at": firm, "studies_at": school, "birthday": day, "date": day, "age": lambda r: str(r.randint(5, 95)), "pet": person,
    }  # fmt: skip
    listed = {
        "works_as": JOBS, "studies": SUBJECTS, "diet": DIETS, "likes": LIKES, "dislikes": LIKES, "allergic_to": ALLERGENS,
        "speaks": LANGUAGES, "plays": GAMES, "owns": THINGS, "uses": TOOLS, "plan": PLANS,
    }  # fmt: skip
    if attribute in made:
        return made[attribute](rng)
    if rng.random() < 0.15:
        return text.word(rng) if attribute != "uses" else text.word(rng).capitalize()
    return rng.choice(listed[attribute])


def fact(subject: str, attribute: str, what: str, of: str | None, ended: bool) -> dict:
    """A fact in the order of its members."""
    made = {"subject": subject, "attribute": attribute}
    if of:
        made["of"] = of
    made["value"] = what.removeprefix("the ") if attribute != "studies_at" else what
    if ended:
        made["ended"] = True
    return made


def statement(rng: random.Random, speaker: str) -> tuple[str, list[dict]]:
    """A clause and what it states."""
    kind = rng.random()
    if kind < 0.18:
        relation = rng.choice(list(RELATIONS))
        word, who = rng.choice(RELATIONS[relation]), person(rng)
        if rng.random() < 0.35:
            attribute = rng.choice(list(OF_OTHERS))
            what, template = value(rng, attribute), rng.choice(OF_OTHERS[attribute])
            said = template.removesuffix("*").format(n=f"my {word} {who}", v=what)
            return said, [fact(speaker, relation, who, None, False), fact(who, attribute, what, None, template.endswith("*"))]
        template = rng.choice(RELATED)
        return template.removeprefix("*").format(k=word, v=who), [fact(speaker, relation, who, None, template.startswith("*"))]
    if kind < 0.30:
        attribute, who = rng.choice(list(OF_OTHERS)), person(rng)
        what, template = value(rng, attribute), rng.choice(OF_OTHERS[attribute])
        return template.removesuffix("*").format(n=who, v=what), [fact(who, attribute, what, None, template.endswith("*"))]
    attribute = rng.choice(list(SAID))
    template = rng.choice(SAID[attribute])
    of, word = None, ""
    if attribute == "favorite":
        of = word = rng.choice(list(FAVOURITES))
        what = rng.choice(FAVOURITES[word])
    else:
        what = value(rng, attribute)
        if attribute == "date":
            of = word = rng.choice(EVENTS)
        elif attribute == "pet":
            word = rng.choice(KINDS)
    said = template.strip("*").format(v=what, k=word, d=rng.choice((rng.choice(text.MONTHS), str(rng.randint(2005, 2025)))))
    if what[:1] in "aeiouAEIOU":
        said = said.replace(f" a {what}", f" an {what}")
    return said, [fact(speaker, attribute, what, of, "*" in template)]


def quiet(rng: random.Random) -> str:
    """What states nothing."""
    return rng.choice(QUIET).format(p=place(rng), t=rng.choice(THINGS), n=person(rng), k=rng.choice(KINDS), l=rng.choice(LANGUAGES),
        j=rng.choice(JOBS), g=rng.choice(GAMES), f=rng.choice(text.FOODS), o=rng.choice(TOOLS), w=firm(rng))  # fmt: skip


def turn(rng: random.Random, speaker: str) -> tuple[str, list[dict]]:
    """What one says in a turn, and what it states."""
    if rng.random() < 0.3:
        said, stated = quiet(rng), []
        if rng.random() < 0.3:
            said += rng.choice((". ", " - ", "\n")) + quiet(rng)
    else:
        said, stated = statement(rng, speaker)
        if rng.random() < 0.2:
            other, more = statement(rng, speaker)
            said, stated = said + rng.choice((" and ", ", ", ". ", ". Also, ", "; ")) + other, stated + more
        if rng.random() < 0.15:
            said += rng.choice((". ", " - ", "\n")) + quiet(rng)
        if rng.random() < 0.2:
            said = quiet(rng) + rng.choice((". ", " - ", "\n", ", ")) + said
    if rng.random() < 0.12:
        around = [quiet(rng).capitalize() for _ in range(rng.randint(2, 5))]
        around.insert(rng.randint(0, len(around)), said)
        said = ". ".join(around)
    if rng.random() < 0.4:
        said = rng.choice(BEFORE) + said
    if rng.random() < 0.5:
        said += rng.choice(BEHIND)
    said = said.replace("?.", "?").replace("..", ".").replace("!.", "!")
    if rng.random() < 0.25:
        said = said.lower()
        for one in stated:
            for member in {"value", "subject"} & one.keys():
                if one[member].lower() in said and one[member] != speaker:
                    one[member] = one[member].lower()
    elif rng.random() < 0.6:
        said = said[:1].upper() + said[1:]
    return said, stated


def fenced(said: str) -> str:
    """The text as an item of a list."""
    return "\n  ".join(line.strip() for line in said.split("\n"))


def window(rng: random.Random, most: int) -> tuple[str, str]:
    """The turns of a prompt, and its answer."""
    lines, stated = [], []
    speakers = [person(rng) for _ in range(rng.randint(1, 2))]
    for n in range(1, rng.choice((1, 1, most)) + 1):
        speaker = rng.choice(speakers) if rng.random() < 0.85 else ""
        if rng.random() < 0.12:
            attribute = rng.choice(list(QUESTIONS))
            question, answers = QUESTIONS[attribute]
            what = value(rng, attribute)
            lines.append(rng.choice(("- assistant: ", f"- user ({person(rng)}): ")) + question)
            said, facts = rng.choice(answers).format(v=what), [fact(speaker or "user", attribute, what, None, False)]
        else:
            if rng.random() < 0.08:
                lines.append("- assistant: " + quiet(rng).rstrip(".!?") + "?")
            said, facts = turn(rng, speaker or "user")
        lines.append(f"- {n} user ({speaker}): {fenced(said)}" if speaker else f"- {n} user: {fenced(said)}")
        stated += [one | {"turns": [n]} for one in facts]
    return "\n".join(lines), json.dumps({"facts": stated}, separators=(",", ":"), ensure_ascii=False)


def make_vocabulary(seed: int = 1) -> sentencepiece.SentencePieceProcessor:
    """The vocabulary: of instruction, turns and answers."""
    rng, out = random.Random(seed), io.BytesIO()
    lines = INSTRUCTION.split("\n") * 400
    for _ in range(20000):
        shown, answer = window(rng, 3)
        lines += shown.split("\n") + [answer]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=PIECES, byte_fallback=True,
        add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity", split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=1.0, pad_id=vocabulary.PAD, eos_id=vocabulary.EOS,
        bos_id=vocabulary.BOS, unk_id=vocabulary.UNK, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        unk_surface=" \u2047 ", control_symbols=["<start_of_turn>", "<end_of_turn>"],
        user_defined_symbols=list(vocabulary.USER_DEFINED), num_threads=1, required_chars="".join(map(chr, range(33, 127))),
        minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def prompt(sp: sentencepiece.SentencePieceProcessor, shown: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt: those that all begin with, and the rest."""
    head = [vocabulary.BOS, vocabulary.START_OF_TURN] + sp.encode("user\n" + PREFIX)
    rest = sp.encode(shown) + [vocabulary.END_OF_TURN] + sp.encode("\n") + [vocabulary.START_OF_TURN] + sp.encode("model\n")
    return head, rest


def batches(rng: random.Random, sp: sentencepiece.SentencePieceProcessor, most: int):
    """Batches of windows of like length, without the instruction: ids, weights."""
    pool = []
    for _ in range(768):
        shown, answer = window(rng, most)
        ids = prompt(sp, shown)[1]
        said = sp.encode(answer) + [vocabulary.END_OF_TURN]
        pool.append((ids + said, [0.0] * len(ids) + [1.0] * len(said)))
    return train.in_batches(rng, pool, TOKENS_PER_STEP)


def loss_of(model: Gemma3ForCausalLM, head: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The cross-entropy of the answers and the share of their tokens that are right."""
    cache = DynamicCache(config=model.config)
    model.model(input_ids=head, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(ids))
    hidden = model.model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).last_hidden_state
    used = weights[:, 1:] > 0
    logits, targets = model.lm_head(hidden[used]), ids[:, 1:][used]
    return torch.nn.functional.cross_entropy(logits, targets), (logits.argmax(-1) == targets).float().mean().item()


def learn(sp: sentencepiece.SentencePieceProcessor, tokens: int = TOKENS, report=print) -> Gemma3ForCausalLM:
    """A model trained on so many tokens. The rates fall to zero in the second half."""
    torch.set_num_threads(1)
    text.STEMS = [p for p in map(sp.id_to_piece, range(sp.vocab_size())) if p.isascii() and p.isalpha()]
    model = gemma.build(**SHAPE, attention="sdpa")
    train.initialise(model, 1)
    rng = random.Random(1)
    head = torch.tensor([prompt(sp, "")[0]])
    report(f"the instruction has {head.shape[1]} tokens")
    model.train()
    matrices = [p for key, p in model.named_parameters() if p.dim() == 2 and "embed" not in key]
    others = [p for key, p in model.named_parameters() if p.dim() != 2 or "embed" in key]
    optimisers = [
        (train.Muon(matrices, lr=train.MATRIX_RATE), train.MATRIX_RATE),
        (torch.optim.AdamW(others, lr=train.OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0), train.OTHER_RATE),
    ]
    step, seen, shown, mean, correct = 0, 0, 0.0, 0.0, 0.0
    while seen < tokens:
        done = seen / tokens
        for ids, weights in batches(rng, sp, 1 if done < 0.1 else 2 if done < 0.3 else 4):
            done = seen / tokens
            if done >= 1:
                break
            loss, right = loss_of(model, head, ids, weights)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            for optimiser, rate in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate * min(1, (step + 1) / 50) * min(1, (1 - done) / 0.5)
                optimiser.step()
            step, seen = step + 1, seen + ids.numel()
            mean = loss.item() if step == 1 else 0.97 * mean + 0.03 * loss.item()
            correct = right if step == 1 else 0.97 * correct + 0.03 * right
            if time.process_time() - shown > 30:
                shown = time.process_time()
                report(f"{done:.0%}  step {step}  {seen / 1e6:.2f} M tokens  loss {mean:.4f}  answer tokens right {correct:.2%}")
    return model.eval()


# Of the invented words in the held-out turns; those of the training are pieces of the vocabulary.
HELD_OUT_STEMS = "lor mer vin tas gol dar fen bel sam rud kal nim pes tor wal".split()


def held_out(conversations: int = 220, seed: int = 777) -> list[dict]:
    """Turns from another seed and with other invented words than the training's, labelled as those of `tests/data/extraction`."""
    rng, turns = random.Random(seed), []
    stems, text.STEMS = text.STEMS, HELD_OUT_STEMS
    for conversation in range(conversations):
        shown, answer = window(rng, 1)
        stated = json.loads(answer)["facts"]
        for line in shown.replace("\n  ", " ").split("\n"):
            number, role, speaker, said = re.fullmatch(r"- (?:(\d+) )?(user|assistant)(?: \(([^)]*)\))?: (.*)", line).groups()
            turns.append({
                "id": f"x{len(turns)}", "conversation": f"c{conversation}", "role": role, "speaker": speaker or role,
                "at": len(turns) * 1000 + 1, "text": said, "kind": "held out",
                "facts": [labelled(one) for one in stated if number and one["turns"] == [int(number)]],
            })  # fmt: skip
    text.STEMS = stems
    return turns


def labelled(one: dict) -> dict:
    """A fact as the labelled sets have it."""
    attribute = " of ".join((one["attribute"], one["of"])) if one["attribute"] == "date" else one["attribute"]
    if one["attribute"] == "favorite":
        attribute = f"favorite {one['of']}"
    return {"subject": one["subject"], "attribute": attribute, "value": one["value"]} | ({"ended": True} if one.get("ended") else {})
