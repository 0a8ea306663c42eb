"""Questions: what their slots hold, and families of meanings that differ by a hair."""

from collections.abc import Mapping

from mtlib.data.lexicon.notation import Choices, choices, concepts, frames

# Entities of the question pairs, by kind; each is its own concept.
ENTITIES: Mapping[str, Choices] = {
    "city": choices(
        "Paris, Rome, Berlin, Madrid, London, Vienna, Tokyo, Boston, Chicago, Dublin, Oslo, Cairo, Delhi, Sydney"
        "| Lisbon, Prague, Athens, Seoul, Toronto, Warsaw, Helsinki, Nairobi, Mumbai, Seattle"
    ),
    "language": choices(
        "Spanish, French, German, Italian, Russian, Japanese, Arabic, Python, Java, Latin"
        "| Portuguese, Korean, Dutch, Swedish, Turkish, Haskell, Rust, Greek"
    ),
    "unit": choices(
        "euros, dollars, pounds, miles, kilometres, grams, ounces, litres, gallons, inches, bitcoins, points"
        "| yen, rupees, metres, pints, francs, tokens, acres, hectares"
    ),
    "animal": choices(
        "dogs, cats, wolves, lions, horses, birds, snakes, bears, foxes, monkeys, spiders"
        "| tigers, sheep, eagles, sharks, elephants, rabbits, whales, lizards"
    ),
    "person": choices(
        "Plato, Newton, Mozart, Kant, Darwin, Picasso, Freud, Dante, Bach, Marx, Hegel"
        "| Socrates, Beethoven, Einstein, Galileo, Monet, Hume, Goethe, Chopin, Aristotle"
    ),
    "event": choices(
        "World War I, the French Revolution, the Cold War, the Great Depression, the Renaissance, the Iron Age"
        "| World War II, the Russian Revolution, the Industrial Revolution, the Middle Ages, the Crimean War"
    ),
    "month": choices("January, March, May, July, September, November | February, April, June, August, October"),
}

# Concepts with synonyms: two draws from one line mean the same, draws from two lines do not.
SYNONYMS: Mapping[str, tuple[Choices, ...]] = {
    "vehicle": concepts("""
        train | rail
        bus, coach
        car | automobile
        plane, aeroplane | air
        boat, ship | ferry
        bike, bicycle"""),
    "device": concepts("""
        laptop, notebook | portable computer
        phone, mobile phone | cellphone, smartphone
        fridge | refrigerator
        car | automobile, vehicle
        television, TV
        bike | bicycle
        washing machine | washer
        oven, stove | cooker"""),
    "lodging": concepts("""
        hotel, place to stay | accommodation
        restaurant, place to eat | eatery, diner
        flat, apartment
        bar, pub | place to drink
        gym, fitness studio | place to work out
        shop, store"""),
    "skill": concepts("""
        cook, prepare meals | make food
        swim
        play the piano, play piano | play a keyboard instrument
        drive, drive a car | operate a car
        draw, sketch | make drawings
        write software, program | code
        sing | perform songs
        play chess
        dance
        take photographs, take pictures | shoot photos
        sew clothes, make clothes | tailor garments"""),
    "time": concepts("""
        a week, seven days | 7 days
        a month | four weeks, 30 days
        a year, twelve months | 12 months
        a day, 24 hours
        half a year, six months
        ten years | a decade"""),
    "habit": concepts("""
        drink coffee, have coffee | have an espresso
        take a nap, have a nap | sleep for a while
        take a shower, have a shower | wash myself
        eat a big meal, have a big meal | eat a lot
        drink water | hydrate
        stretch, do stretching | loosen my muscles
        smoke, have a cigarette
        brush my teeth, clean my teeth"""),
    "occasion": concepts("""
        a workout, exercise | training
        breakfast, the morning meal
        an exam, a test | an examination
        a flight | a plane trip
        surgery, an operation
        an interview, a job interview
        a blood donation, giving blood | donating blood"""),
    "practice": concepts("""
        working from home, working at home | remote work
        eating meat | consuming meat
        owning a dog, having a dog | keeping a dog
        renting a flat, renting an apartment
        studying abroad, studying in a foreign country | going overseas to study
        nuclear power, nuclear energy | atomic energy
        living alone, living by myself | living on my own
        getting married, marriage
        online classes, studying online | e-learning"""),
    "content": concepts("""
        account, profile
        photo, picture | image
        comment, remark | reply
        playlist
        message | note
        contact | friend"""),
    "service": concepts("""
        Facebook
        Instagram
        Spotify
        YouTube
        WhatsApp
        LinkedIn | my LinkedIn page"""),
    "pet": concepts("""
        dog, puppy | hound
        cat, kitten
        horse, pony
        parrot | budgie
        hamster
        rabbit, bunny"""),
    "behaviour": concepts("""
        eat | take food
        sleep at night, sleep during the night
        let me touch it | let me pet it
        come when I call, come when called
        play with others | play with other animals
        drink
        go outside, leave the house"""),
    "dish": concepts("""
        bread, a loaf of bread
        a cake
        pancakes
        ice cream | gelato
        a pizza
        cookies | biscuits
        soup, a soup
        mayonnaise | mayo"""),
    "ingredient": concepts("""
        eggs
        sugar | sweeteners
        milk | dairy
        butter
        flour
        yeast
        salt
        an oven"""),
}

# Questions. A family is a list of meanings; questions of one meaning are duplicates when their slots are equal,
# and questions of two meanings of a family are near misses. Slots are named by kind, with a digit for two of a kind.
FAMILIES: tuple[tuple[Choices, ...], ...] = tuple(
    tuple(frames(meaning) for meaning in family.split("~"))
    for family in """
How do I convert {unit1} into {unit2}?
What is the easiest way to turn {unit1} into {unit2}?
I have {unit1} and need {unit2}. How do I convert them?
To get {unit2}, how should I convert my {unit1}?
|How can {unit1} be changed to {unit2}?
Which formula gives me {unit2} from {unit1}?
~
How do I convert {unit2} into {unit1}?
I have {unit2} and need {unit1}. How do I convert them?
To get {unit1}, how should I convert my {unit2}?
|How can {unit2} be changed to {unit1}?
Which formula gives me {unit1} from {unit2}?
===
How do I get from {city1} to {city2} by {vehicle}?
What is the best way to travel from {city1} to {city2} by {vehicle}?
I am in {city1}. How can I get to {city2} by {vehicle}?
|Leaving {city1} by {vehicle}, how do I arrive in {city2}?
What is the way to {city2} if I start in {city1} and go by {vehicle}?
~
How do I get from {city2} to {city1} by {vehicle}?
What is the best way to travel from {city2} to {city1} by {vehicle}?
I am in {city2}. How can I get to {city1} by {vehicle}?
|Leaving {city2} by {vehicle}, how do I arrive in {city1}?
What is the way to {city1} if I start in {city2} and go by {vehicle}?
===
Is {language1} harder to learn than {language2}?
Is {language2} easier to learn than {language1}?
Does it take more effort to learn {language1} than {language2}?
|Is {language1} more difficult to pick up than {language2}?
Does learning {language2} cost less effort than learning {language1}?
~
Is {language2} harder to learn than {language1}?
Is {language1} easier to learn than {language2}?
Does it take more effort to learn {language2} than {language1}?
|Is {language2} more difficult to pick up than {language1}?
===
Is {city1} bigger than {city2}?
Is {city2} smaller than {city1}?
Does {city1} have more inhabitants than {city2}?
|Does {city2} have fewer people than {city1}?
Is {city1} the larger city compared with {city2}?
~
Is {city2} bigger than {city1}?
Is {city1} smaller than {city2}?
Does {city2} have more inhabitants than {city1}?
|Does {city1} have fewer people than {city2}?
===
Why do {animal1} chase {animal2}?
Why are {animal2} chased by {animal1}?
What makes {animal1} run after {animal2}?
|For what reason do {animal1} pursue {animal2}?
Why do {animal2} get hunted by {animal1}?
~
Why do {animal2} chase {animal1}?
Why are {animal1} chased by {animal2}?
What makes {animal2} run after {animal1}?
|For what reason do {animal2} pursue {animal1}?
~
Why are {animal1} afraid of {animal2}?
Why do {animal1} fear {animal2}?
What makes {animal2} so scary to {animal1}?
|Why do {animal2} frighten {animal1}?
===
Who influenced {person} the most?
By whom was {person} influenced the most?
Who had the greatest influence on {person}?
|Whose ideas shaped {person} more than any other's?
~
Whom did {person} influence the most?
Who was influenced the most by {person}?
On whom did {person} have the greatest influence?
|Who owes most of his ideas to {person}?
~
When did {person} die?
In which year did {person} die?
What was the date of the death of {person}?
|When did {person} pass away?
~
When was {person} born?
In which year was {person} born?
What was the date of birth of {person}?
|When did {person} come into the world?
===
What is the cheapest {lodging} in {city}?
Where in {city} can I find a really cheap {lodging}?
Which {lodging} in {city} has the lowest prices?
|Where do I find a budget {lodging} in {city}?
Can you name the most affordable {lodging} in {city}?
~
What is the most expensive {lodging} in {city}?
Where in {city} can I find a really luxurious {lodging}?
Which {lodging} in {city} has the highest prices?
|Where do I find an exclusive {lodging} in {city}?
~
How do I open a {lodging} in {city}?
What do I need to start a {lodging} in {city}?
|Which permits do I need to run a {lodging} in {city}?
===
When did {event} start?
In which year did {event} begin?
What was the first year of {event}?
|When was the beginning of {event}?
When did {event} get under way?
~
When did {event} end?
In which year was {event} over?
What was the last year of {event}?
|When did {event} come to a close?
When was {event} finished?
~
What caused {event}?
What were the causes of {event}?
Why did {event} happen?
|What led to {event}?
===
Can I learn to {skill} in {time}?
Is {time} enough to learn how to {skill}?
How do I learn to {skill} within {time}?
|Is it possible to be able to {skill} after {time}?
Could a beginner {skill} after {time} of practice?
~
Can I forget how to {skill} in {time}?
After {time} without practice, will I still be able to {skill}?
|Does one lose the ability to {skill} if one does not practise for {time}?
~
How much do people who {skill} well earn in {time}?
What is the income of someone paid to {skill} for {time}?
|What salary does a professional who can {skill} get for {time}?
===
Should I {habit} before {occasion}?
Is it a good idea to {habit} before {occasion}?
If I have {occasion} later, should I {habit} first?
|Is it wise to {habit} prior to {occasion}?
Should {occasion} come after I {habit}?
~
Should I {habit} after {occasion}?
Is it a good idea to {habit} after {occasion}?
When I am done with {occasion}, should I {habit}?
|Is it wise to {habit} following {occasion}?
Should {occasion} come before I {habit}?
===
What are the advantages of {practice}?
What are the benefits of {practice}?
Why is {practice} a good thing?
|What speaks for {practice}?
What are the upsides of {practice}?
~
What are the disadvantages of {practice}?
What are the drawbacks of {practice}?
Why is {practice} a bad thing?
|What speaks against {practice}?
What are the downsides of {practice}?
===
How do I delete a {content} on {service}?
How can I remove a {content} from {service}?
I have a {content} on {service} and want to get rid of it. How?
|What are the steps for erasing a {content} on {service}?
~
How do I create a {content} on {service}?
How can I add a {content} to {service}?
I have no {content} on {service} and want one. How?
|What are the steps for making a new {content} on {service}?
===
Why does my {pet} not {behaviour}?
Why will my {pet} not {behaviour}?
What can I do if my {pet} refuses to {behaviour}?
|What is wrong when a {pet} won't {behaviour}?
My {pet} has stopped wanting to {behaviour}. Why?
~
Why does my {pet} always {behaviour}?
Why does my {pet} {behaviour} so often?
What can I do if my {pet} insists on trying to {behaviour}?
|What is going on when a {pet} wants to {behaviour} all the time?
===
How do I make {dish} with {ingredient}?
What is a recipe for {dish} that uses {ingredient}?
I have {ingredient}. How do I make {dish}?
|Which recipe for {dish} contains {ingredient}?
~
How do I make {dish} without {ingredient}?
What is a recipe for {dish} that needs no {ingredient}?
I have run out of {ingredient}. How do I still make {dish}?
|Which recipe for {dish} avoids {ingredient}?
===
How do I fix a {device} that does not start?
What can I do when my {device} does not turn on?
How can I repair a {device} that won't start?
|My {device} stays off whatever I do. How do I get it running?
~
How do I fix a {device} that does not stop?
What can I do when my {device} does not turn off?
|My {device} stays on whatever I do. How do I shut it down?
~
How do I sell a {device} that does not start?
Who buys a {device} that does not turn on?
|Where can I get money for a {device} that won't start?
===
What is the weather like in {city} in {month}?
How warm is it in {city} in {month}?
What temperatures should I expect in {city} in {month}?
|Is it hot or cold in {city} during {month}?
~
Which events take place in {city} in {month}?
What is going on in {city} in {month}?
What festivals does {city} have in {month}?
|What can I attend in {city} during {month}?
""".strip().split("===")
)
