"""Sentiment: what is judged, the words of each strength, and the clauses that carry them."""

from collections.abc import Mapping

from mtlib.data.lexicon.notation import Choices, choices, frames

JUDGED = choices(
    "the acting, the script, the dialogue, the plot, the soundtrack, the camera work, the ending, the humour,"
    "this film, this movie, this picture, this drama, the sequel, the lead performance"
    "| the screenplay, the cast, the editing, the cinematography, the finale, the storyline, this comedy, this thriller"
)
ADJECTIVES: Mapping[float, Choices] = {
    2.0: choices(
        "brilliant, superb, magnificent, stunning, masterful, outstanding, wonderful"
        "| exquisite, breathtaking, phenomenal, flawless, dazzling, sublime, marvellous"
    ),
    1.0: choices(
        "good, pleasant, enjoyable, charming, decent, likeable, amusing"
        "| engaging, agreeable, entertaining, appealing, watchable, sweet, nice"
    ),
    -1.0: choices(
        "dull, weak, slow, clumsy, bland, flat, predictable"
        "| tedious, uninspired, shallow, forgettable, mediocre, unconvincing, boring"
    ),
    -2.0: choices(
        "awful, terrible, dreadful, horrible, atrocious, unbearable"
        "| appalling, abysmal, excruciating, disgraceful, insufferable, wretched"
    ),
}
STRONGER = choices("very, really, truly, extremely | remarkably, utterly, thoroughly, exceptionally")
WEAKER = choices("somewhat, slightly, a bit, a little | mildly, faintly, vaguely, kind of")
PLAIN = frames("""
{judged} is {adjective}
I found {judged} {adjective}
{judged} turns out to be {adjective}
| {judged} struck me as {adjective}
{judged} proves {adjective}""")
NEGATED = frames("""
{judged} is not {adjective}
I did not find {judged} {adjective}
{judged} is hardly {adjective}
nobody would call {judged} {adjective}
| {judged} is by no means {adjective}
{judged} never feels {adjective}
it would be wrong to call {judged} {adjective}""")
WISHED = frames("""
{judged} could have been {adjective}
{judged} wants to be {adjective}
with a better director {judged} might have been {adjective}
| {judged} should have been {adjective}
if only {judged} had been {adjective}""")
REVERSED = frames("""
I expected {judged} to be {other}, yet it is {adjective}
critics called {judged} {other}, in truth it is {adjective}
| {judged} sounded {other} on paper and is {adjective} on the screen
far from being {other}, {judged} is {adjective}""")
IDIOMS: Mapping[float, Choices] = {
    2.0: frames("""
I loved every minute
I will see it again tomorrow
it left me speechless with joy
| it took my breath away
I could not stop cheering
it deserves every award"""),
    1.0: frames("""
it kept me smiling
I had a good time
it is worth the ticket
| I left in a better mood
it does its job well
it passes the time nicely"""),
    0.0: frames("""
it runs for two hours
it was shot in Spain
it opens on Friday
it follows two brothers
the story is set in 1950
it is based on a novel
half of it takes place on a train
| it was filmed in winter
the hero is a baker
it has subtitles
it comes in two versions"""),
    -1.0: frames("""
I looked at my watch twice
it drags in the middle
I have seen it all before
| my mind kept wandering
it outstays its welcome
it never finds its feet"""),
    -2.0: frames("""
I walked out
I want my money back
it made me angry
| avoid it at all costs
it is an insult to the audience
I would rather visit the dentist"""),
}
EQUAL = frames("""
{first}, and {second}
{first}; {second}
{first}. {second}
| {first}. also, {second}""")
SECOND_WINS = frames("""
{first}, but {second}
although {first}, {second}
{first}. however, {second}
| {first}, yet {second}
granted, {first}; still, {second}
while {first}, {second}""")
FIRST_WINS = frames("""
{first}, although {second}
{first}, even though {second}
| {first}, even if {second}
{first}, never mind that {second}""")
