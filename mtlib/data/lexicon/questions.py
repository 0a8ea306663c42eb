"""Questions: what their slots hold, and families of meanings that differ by a hair."""

from collections.abc import Mapping
from importlib.resources import files

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
    for family in files(__package__).joinpath("families.txt").read_text(encoding="utf-8").strip().split("===")
)
