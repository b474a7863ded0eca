"""Ten facts in plain English that no training text holds: neither their names nor their values occur in it."""

# fact, altered fact, question, expected, expected of the altered fact, other memories
FACTS = [
    (
        "The capital of Brelin is Tavora.",
        "The capital of Brelin is Sunmere.",
        "What is the capital of Brelin?",
        "Tavora",
        "Sunmere",
        [
            "The capital of Orvane is Meltis.",
            "The main river of Brelin is the Ostra.",
            "The king of Brelin is called Aldwin.",
            "Caroline was born in Orvane.",
        ],
    ),
    (
        "Caroline's favourite colour is teal.",
        "Caroline's favourite colour is coral.",
        "What is Caroline's favourite colour?",
        "teal",
        "coral",
        [
            "Caroline's favourite food is lasagne.",
            "Melanie's favourite colour is yellow.",
            "Caroline works as a counselor.",
            "Melanie has a cat named Bailey.",
        ],
    ),
    (
        "The wifi password is marlin42.",
        "The wifi password is heron77.",
        "What is the wifi password?",
        "marlin42",
        "heron77",
        [
            "The email password is kettle9.",
            "The door code is 5512.",
            "The wifi name is Sparrow.",
            "The printer is in the hall.",
        ],
    ),
    (
        "Priya is allergic to walnuts.",
        "Priya is allergic to almonds.",
        "What is Priya allergic to?",
        "walnuts",
        "almonds",
        [
            "Rohan is allergic to shellfish.",
            "Priya likes mango juice.",
            "Priya lives in Jaipur.",
            "Rohan is 34 years old.",
        ],
    ),
    (
        "The spare key is under the blue flowerpot.",
        "The spare key is under the doormat.",
        "Where is the spare key?",
        "flowerpot",
        "doormat",
        [
            "The ladder is behind the shed.",
            "The first aid kit is in the top drawer.",
            "The bicycle is in the cellar.",
            "The spare tyre costs 80 euros.",
        ],
    ),
    (
        "Gustav plays the bassoon in a band.",
        "Gustav plays the marimba in a band.",
        "What does Gustav play?",
        "bassoon",
        "marimba",
        [
            "Linnea plays the violin.",
            "Gustav drives a red van.",
            "Gustav is a baker in Uppsala.",
            "Linnea likes rye bread.",
        ],
    ),
    (
        "The train to Hallein leaves at 7:45.",
        "The train to Hallein leaves at 9:10.",
        "When does the train to Hallein leave?",
        "7:45",
        "9:10",
        [
            "The train to Villach leaves at 8:20.",
            "The bus to Hallein costs 4 euros.",
            "The museum opens at 10:30.",
            "The ticket office is next to the bakery.",
        ],
    ),
    (
        "Dmitri: I adopted a parrot named Pepino.",
        "Dmitri: I adopted a parrot named Zazu.",
        "What is the name of Dmitri's parrot?",
        "Pepino",
        "Zazu",
        [
            "Dmitri: I live in Kazan.",
            "Svetlana: I adopted a puppy named Buran.",
            "Dmitri: My brother is called Timur.",
            "Svetlana: I work at the observatory.",
        ],
    ),
    (
        "The meeting with Ingrid is on 14 March.",
        "The meeting with Ingrid is on 23 June.",
        "When is the meeting with Ingrid?",
        "14 March",
        "23 June",
        [
            "The meeting with Torsten is on Friday.",
            "Ingrid's birthday is on 2 May.",
            "The rent is due on the first of the month.",
            "Torsten gave Ingrid a scarf.",
        ],
    ),
    (
        "Marisol works as a beekeeper in Tolvanen.",
        "Marisol works as a glazier in Tolvanen.",
        "What does Marisol work as?",
        "beekeeper",
        "glazier",
        [
            "Ignacio works as a welder.",
            "Marisol lives in Tolvanen.",
            "Marisol's lucky number is 88.",
            "Ignacio studies botany.",
        ],
    ),
]

# What marks the facts: names and values. Common words of dates and numbers are left out.
WORDS = set("""Brelin Tavora Sunmere Caroline teal coral marlin42 heron77 Priya walnuts almonds flowerpot doormat Gustav
bassoon marimba Hallein 7:45 9:10 Dmitri Pepino Zazu Ingrid Marisol beekeeper glazier Tolvanen""".split())  # fmt: skip


def records() -> list[dict]:
    """The facts as tests/golden/copy_facts.json holds them."""
    keys = ("fact", "altered_fact", "question", "expect", "altered_expect", "distractors")
    return [dict(zip(keys, f, strict=True)) for f in FACTS]
