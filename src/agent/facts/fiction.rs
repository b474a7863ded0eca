//! Games, stories and roles: what is said in them is said by nobody.
//!
//! A story is told by its words, and is over with its turn and the answer to it. A game that somebody opens ("let's pretend", "you be the doctor") goes on
//! until somebody leaves it, however plainly people speak in it: so the turns before count.

use super::grammar::one_of;
use super::lexicon as lex;
use super::source::{blanked, has_any, words};
use super::values::is_adjective;
use crate::context::Turn;

/// They open a game.
const GAMES: &str = "role play|roleplay|role-play|roleplaying|rp time|let's pretend|lets pretend|pretend to be|pretend you|pretend i|pretend we|pretend that|let's act|lets act|act the scene|act as if|\
    imagine you are|imagine you're|everyone in character|stay in character|in-character|in character from|in character please|in character as|text adventure|dungeon master|game master|new game|improv|let's do a scene|\
    practice dialogue|practise dialogue|practice conversation|interactive story|interactive fiction|continue our story|\
    continue the story|set the scene|let's play a|lets play a|i'll be the|i will be the|i'll play the|i play the role|i play the part|you be the|you be my|\
    you'll be the|you play the|you play my|you do the voices|i'll be brother|i'll be sister|be my dungeon|your character|you are the villain|for this game|you start. i|you go first|role-played|roleplayed|in this game|for the game";
/// Words of stories.
const STORIES: &str = "character|rough draft|once upon a time|alter ego|in stardew|in minecraft|in skyrim|in gta|in fortnite|in roblox|in zelda|the sims|my sims|animal crossing|my save|in d&d|in dnd|protagonist|backstory|let's play|minecraft world|my world|in game|in-game|well met|\
    campaign setting|fanfic|fan fiction|short story|screenplay|imagine i|you play|in the novel|in the film|in the movie|in the book|in the show|in the series|\
    my novel|my story|of my book|my poem|narrator|the chapter opens|the chapter begins|raises his mug|raises her mug|draws his sword|draws her sword|in this scene|\
    scene:|int.|monologue|as my alter ego|lyrics|verse 1|chorus|i play the villain|i play the hero|i play the rogue|i play the wizard|i play the bard|\
    i play the elf|i play the king|i play the queen|i play the knight|i play the captain|i play the detective|i play the ghost|i play the lead|\
    half-orc|half-elf|in the voice of|my avatar|my sim|my npc|the npc|the year 2|stardate|captain's log|dear diary|greetings, traveler|greetings traveler|\
    my dream last night|from mars|on mars|from the moon|from the future|from another planet|from outer space|cast myself|warm-up game|i kneel|i dreamt|i dreamed|had this dream|had a dream";
/// Words of worlds that are not ours: two of them make a story.
const WORLDS: &str = "sword swords castle kingdom realm quest tavern innkeeper wizard witch wizards elf elves elven dwarf dwarves dwarven orc orcs dragon \
    dragons goblin goblins spell spells potion potions vampire vampires werewolf starship spaceship galaxy martian moonbase cyborg heist \
    pirate pirates blade cloak prophecy thee thou thy thine aye milady m'lord mlord sire wanderer squire knight knights mage sorcerer \
    sorceress undead zombies apocalypse wasteland warrior herald bard druid cleric rogue paladin necromancer warlock crypt cavern dagger \
    dungeon dungeons initiative npc villagers apothecary alchemist smuggler bounty outlaw saloon rebellion superpowers henchmen lair cursed \
    enchanted forest-folk hobbit plague butler detective ferryman matey ahoy arr arrr behold verily";
/// Titles that hardly anybody bears.
const TITLES: &str = "colonel lady lord captain sir count countess duke duchess princess prince king queen baron baroness general inspector detective commander dame sheriff emperor empress";
/// Who says one of these speaks for himself for once: the game goes on.
const ASIDES: &str = "real me|actual me|real life|real world|irl|out of character|out of game|ooc|jokes aside|joking aside|in reality|for real|not in the game|outside the game|outside of the game|stepping out";
/// The same, at the beginning of a sentence.
const TURNS: &str = "anyway|anyways|so anyway|seriously|ok so|okay so|ok, so|okay, so|on a serious note|but seriously|ok seriously|okay seriously|btw|by the way|oh and btw";
/// They end a game.
const ENDS: &str = "back to reality|back to real|back to work|back to business|enough of that|enough of the|stop the game|stop playing|stop there|dropping the act|drop the act|game over|end scene|\
    end of scene|end the game|done playing|let's stop|break character|ok enough|okay enough|that's enough|the end.|that was fun|enough for tonight|enough for today|topic change|change of topic|something of my own|on another note|real me again";

/// Whether a text is of a story or a game.
pub(super) fn is_story(small: &str) -> bool {
    opens(small) || has_any(small, STORIES) || is_titled(small) || acts(small) || is_script(small) || is_animal(small)
}

/// Whether it opens a game.
pub(super) fn opens(small: &str) -> bool {
    has_any(small, GAMES) || casts(small) || is_elsewhere(small)
}

/// "A: I live here. B: In the lift?"
fn is_script(small: &str) -> bool {
    let labels = ["a: ", "b: ", "c: ", "q: ", "x: ", "y: "];
    labels.iter().filter(|label| small.starts_with(**label) || small.contains(&format!(" {label}"))).count() > 1
}

/// "I'm the caretaker's cat."
fn is_animal(small: &str) -> bool {
    small.split(['.', '!', '?', '\n', ',', ';']).any(|clause| {
        let words: Vec<&str> = words(clause).collect();
        let me = words.iter().position(|word| matches!(*word, "i'm" | "im"));
        let me = me.or_else(|| words.windows(2).position(|two| two == ["i", "am"]).map(|at| at + 1));
        me.is_some_and(|at| {
            words.get(at + 1).is_some_and(|word| matches!(*word, "a" | "an" | "the"))
                && words.len() <= at + 5
                && words
                    .last()
                    .is_some_and(|last| lex::PETS.contains(last) && !one_of(last, "pig lab boxer hound mule shepherd"))
        })
    })
}

/// Where the sentence begins with which somebody, beside a story, speaks for himself.
pub(super) fn awake(small: &str) -> Option<usize> {
    let mut from = 0;
    small.split_inclusive(['.', '!', '?', '\n']).find_map(|sentence| {
        let at = from + (sentence.len() - sentence.trim_start().len());
        from += sentence.len();
        // Who plays says in brackets what is not of the game.
        let aside = at == 0 && sentence.starts_with('(');
        let sentence = sentence.trim_start_matches(|c: char| !c.is_alphanumeric());
        let begins = |phrase: &str| {
            sentence
                .strip_prefix(phrase)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\''))
        };
        (aside || has_any(sentence, ASIDES) || has_any(sentence, ENDS) || TURNS.split('|').any(begins)).then_some(at)
    })
}

/// Whether it ends a game.
pub(super) fn ends(small: &str) -> bool {
    has_any(small, ENDS)
}

/// Whether somebody who is known by a name says that he is called otherwise: "I'm Adrian Cole", and it is Kwame who speaks. "Call me Bo" is no such thing.
pub(super) fn is_another(turn: &Turn) -> bool {
    let Some(speaker) = turn.speaker.filter(|name| name.starts_with(char::is_uppercase)) else { return false };
    let known: Vec<String> = speaker.to_lowercase().split(' ').map(str::to_owned).collect();
    let text = blanked(turn.content).replace('’', "'");
    let small = text.to_lowercase();
    if small.len() != text.len() || has_any(&small, "call me|go by|known as|nickname|short for") {
        return false;
    }
    // "Astronaut Ruiz.", says Ruiz.
    let styled = small.split(['.', '!', '?', '\n']).any(|sentence| {
        let mut words = words(sentence);
        let (title, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        words.next().is_none() && lex::OCCUPATIONS.contains(title) && known.iter().any(|known| known == name)
    });
    let named = ["my name is ", "my name's ", "i'm ", "i am "].iter().any(|says| {
        small.match_indices(says).any(|(at, _)| {
            let alone =
                small.get(..at).is_none_or(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '"'));
            let rest = text.get(at + says.len()..).unwrap_or_default();
            let name: String = rest.chars().take_while(|c| c.is_alphabetic() || *c == '-').collect();
            let behind = rest.get(name.len()..).unwrap_or_default();
            // "I am Thrain son of Gorm", "I am Orsolt of the Salt March".
            let styled = [" son of", " daughter of", " of the", " the "].iter().any(|style| behind.starts_with(style));
            let ends =
                behind.is_empty() || behind.starts_with(['.', ',', '!', ';', ')']) || says.starts_with("my") || styled;
            let word = name.to_lowercase();
            let titled = name.starts_with(char::is_uppercase) && !name.chars().skip(1).all(char::is_uppercase);
            let same = known.iter().any(|known| known.starts_with(&word) || word.starts_with(known.as_str()));
            alone && ends && titled && !same && !lex::COMMON.contains(word.as_str()) && !is_adjective(&word)
        })
    });
    styled || named
}

/// "You're a customs officer and I'm a smuggler."
fn casts(small: &str) -> bool {
    small.split(['.', '!', '?', '\n']).any(|sentence| {
        let words: Vec<&str> = words(sentence).collect();
        let role = |of: &str| {
            words.windows(2).any(|two| {
                matches!(two, [who, article] if one_of(who, of) && one_of(article, "a an the my your"))
            }) || words.windows(3).any(|three| {
                matches!(three, [who, be, article] if one_of(&format!("{who}-{be}"), of) && one_of(article, "a an the my your"))
            })
        };
        role("you're you-are you-be you'll-be you-play youre you-do") && role("i'm i-am i'll-be im i-play i-be")
            && !words.iter().any(|word| one_of(word, "best greatest first only one"))
    })
}

/// Whether somebody introduces himself by a title: "I'm Colonel Ashdown".
fn is_titled(small: &str) -> bool {
    let words: Vec<&str> = words(small).collect();
    words.windows(3).any(|three| {
        matches!(three, [be, title, next] if one_of(be, "i'm am im") && one_of(title, TITLES) && !one_of(next, "of at in for and on to here"))
    })
}

fn is_elsewhere(small: &str) -> bool {
    let mut found: Vec<&str> = words(small).filter(|word| one_of(word, WORLDS)).collect();
    found.sort_unstable();
    found.dedup();
    found.len() > 1
}

/// "*slams the mug down*": who writes what he does plays a role.
fn acts(small: &str) -> bool {
    let does = small.split('*').skip(1).step_by(2).any(|part| {
        part.split_whitespace().count() > 1 && part.starts_with(char::is_lowercase)
            || matches!(part, "bows" | "kneels" | "curtsies")
    });
    does && !small.contains("**")
}
