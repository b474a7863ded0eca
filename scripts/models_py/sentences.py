"""Patterns of sentences and of questions about them."""

# For each: the kind of its value {v}, its statements, and its questions after "?".
# {n} and {f} are names, {t} a thing, {a} an animal, {w} an invented verb, {q} a title, {p} a place, {d} a day, {m} a month,
# {k} a number.
PATTERNS = """
place
    {n} lives in {v}. | {n} has lived in {v} for {k} years. | {n}: I live in {v}.
  ? Where does {n} live? | In which town does {n} live?
place
    {n} moved to {v}. | {n} moved to {v} last year. | {n}: I moved to {v} in {m}.
  ? Where did {n} move? | Where did {n} move to?
place
    {n} was born in {v}. | {n}: I was born in {v}.
  ? Where was {n} born? | When was {n} born?
job
    {n} works as a {v}. | {n} works as a {v} in {p}. | {n}: I work as a {v}.
  ? What does {n} work as? | What work does {n} do? | As what does {n} work?
proper
    {n} works at {v}. | {n}: I work at {v}.
  ? Where does {n} work?
liking
    {n} likes {v}. | {n} likes {v} most of all. | {n}: I really like {v}.
  ? What does {n} like? | What does {n} like most?
liking
    {n} loves {v}. | {n}: I love {v}.
  ? What does {n} love?
food
    {n} hates {v}. | {n}: I hate {v}.
  ? What does {n} hate?
food
    {n} is allergic to {v}. | {n}: I am allergic to {v}.
  ? What is {n} allergic to? | Is {n} allergic to anything?
instrument
    {n} plays the {v}. | {n} plays the {v} in a band. | {n}: I play the {v}.
  ? What does {n} play? | Which instrument does {n} play?
proper
    {n} speaks {v}. | {n} speaks {v} at home.
  ? What does {n} speak? | Which language does {n} speak?
coloured
    {n} drives a {v}. | {n} drives a {v} to work.
  ? What does {n} drive?
thing
    {n} bought a {v}. | {n} bought a {v} in {p}. | {n}: I bought a {v} yesterday.
  ? What did {n} buy?
thing
    {n} lost a {v}. | {n} lost a {v} on {d}.
  ? What did {n} lose? | What has {n} lost?
number
    {n} paid {v} for the {t}.
  ? How much did {n} pay for the {t}? | What did {n} pay for the {t}?
proper
    {n} has a {a} named {v}. | {n} adopted a {a} named {v}. | {n}: I adopted a {a} named {v}. | {n} has a {a} called {v}.
  ? What is the name of {n}'s {a}? | What is {n}'s {a} called? | What is the {a} of {n} called?
proper
    The {t} is called {v}. | The {t} was named {v}.
  ? What is the {t} called? | What is the name of the {t}?
thing
    The {t} is in the {v}. | I put the {t} in the {v}. | The {t} is behind the {v}. | The {t} is under the {v}.
  ? Where is the {t}? | Where did I put the {t}? | Where can I find the {t}?
colour
    The {t} is {v}. | The {t} is painted {v}.
  ? What colour is the {t}? | What color is the {t}? | Which colour has the {t}?
number
    The {t} costs {v}. | The {t} costs {v} in {p}.
  ? How much does the {t} cost? | What does the {t} cost?
date
    The {t} was built in {v}.
  ? When was the {t} built? | In which year was the {t} built?
clock
    The {t} opens at {v}. | The {t} opens at {v} on {d}.
  ? When does the {t} open? | At what time does the {t} open?
clock
    The {t} closes at {v}.
  ? When does the {t} close?
clock
    The {t} to {p} leaves at {v}.
  ? When does the {t} to {p} leave? | At what time does the {t} to {p} leave?
moment
    The meeting with {n} is on {v}. | The meeting with {n} is at {v}.
  ? When is the meeting with {n}? | When do I meet {n}?
moment
    The {w} meeting is on {v}. | The {w} meeting starts at {v}.
  ? When is the {w} meeting? | When does the {w} meeting start?
date
    {n}'s birthday is on {v}. | {n} has a birthday on {v}.
  ? When is {n}'s birthday? | When is the birthday of {n}?
name
    {n} married {v}. | {n} married {v} in {m}.
  ? Who did {n} marry? | Whom did {n} marry?
name
    {v} wrote the book {q}. | {q} was written by {v}.
  ? Who wrote {q}? | Who wrote the book {q}?
name
    {v} built the {t}. | {v} repaired the {t}. | {v} has the {t}. | {v} owns the {t}.
  ? Who built the {t}? | Who repaired the {t}? | Who has the {t}? | Who owns the {t}?
word
    {n} {w}s {v}. | {n} {w}s the {v}. | {n}: I {w} {v}.
  ? What does {n} {w}?
thing
    {n} {w}ed the {v}. | {n} {w}ed a {v} in {p}.
  ? What did {n} {w}? | What has {n} {w}ed?
place
    The {w} of {v} is near {p}. | In {v} there is a {w} near {p}.
  ? Where is the {w} near {p}? | What is near {p}?
age
    {n} is {v} years old. | {n}: I am {v} years old.
  ? How old is {n}?
hobby
    {n} is training for the {v} in {p}. | {n} signed up for a {v} class.
  ? What is {n} training for? | What did {n} sign up for?
place
    {n} went to {v} with {f}. | {n}: I went to {v} with {f}.
  ? Where did {n} go with {f}? | Where did {n} go?
thing
    {n} gave {f} a {v}.
  ? What did {n} give {f}? | What did {n} give to {f}?
job
    {n} wants to become a {v}. | {n}: I want to become a {v}.
  ? What does {n} want to become? | What does {n} want to be?
word
    {n} studies {v}. | {n} studies {v} in {p}.
  ? What does {n} study?
hobby
    {n} goes {v} every {d}. | {n} does {v} on {d}.
  ? What does {n} do every {d}? | What does {n} do on {d}?
"""
