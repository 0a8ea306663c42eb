"""Similarity: scenes. Words of one line mean the same; lines of one kind are siblings."""

from collections.abc import Mapping

from mtlib.data.lexicon.notation import Choices, choices, concepts, frames

ACTORS: Mapping[str, tuple[Choices, ...]] = {
    "people": concepts("""
        man, guy | gentleman, bloke
        woman | lady
        boy | lad
        girl
        child, kid | youngster
        soldier | trooper
        chef, cook
        farmer
        doctor | physician
        policeman, police officer | cop
        musician
        teacher | schoolteacher"""),
    "animals": concepts("""
        dog | hound
        cat | feline
        horse | stallion
        monkey
        puppy, young dog
        rabbit, bunny
        bird
        goat"""),
}
MUTUAL = concepts("""
    chasing/chased, running after/run after | pursuing/pursued
    carrying/carried | lifting/lifted
    following/followed
    watching/watched, looking at/looked at | observing/observed
    pushing/pushed | shoving/shoved
    greeting/greeted | welcoming/welcomed
    feeding/fed
    washing/washed, cleaning/cleaned
    helping/helped | assisting/assisted
    photographing/photographed""")
HANDLED: tuple[tuple[Choices, tuple[Choices, ...]], ...] = tuple(
    (choices(verb), tuple(choices(thing) for thing in things.split(";")))
    for verb, things in (
        line.split(":")
        for line in """
    playing/played: guitar; piano; violin | fiddle; flute; drum
    riding/ridden: bicycle, bike; motorbike | motorcycle; skateboard; scooter
    cutting/cut, slicing/sliced | chopping/chopped: onion; potato; tomato; carrot; cake
    reading/read: book; newspaper | paper; letter; magazine
    eating/eaten | devouring/devoured: sandwich; banana; apple; pizza; biscuit | cookie
    driving/driven | steering/steered: car | automobile; truck | lorry; bus; tractor
    painting/painted: wall; picture; fence; house
    fixing/fixed, repairing/repaired | mending/mended: roof; car | automobile; bicycle, bike; radio
    throwing/thrown, tossing/tossed | hurling/hurled: ball; stone, rock; stick
    building/built | constructing/constructed: wall; house; boat; shed
    holding/held: baby | infant; umbrella; flag; camera""".strip().splitlines()
    )
)
LOOKS = concepts("""
    young
    old | elderly
    tall
    tired | exhausted
    happy, cheerful | joyful
    wet | soaked
    small, little | tiny
    big, large | huge""")
PLACES = concepts("""
    in the park
    on the beach, by the sea | at the seaside
    in the kitchen
    on the street, in the street | on the road
    in a field | on a meadow
    on the stage | on a stage
    in the garden | in the yard
    in the snow
    near a river, beside a river | by a stream
    in front of a house | before a house""")
SCENES = frames("""
{actor} is {doing} {object}{place}.
{ahead}{actor} is {doing} {object}.
{object} is being {done} by {actor}{place}.
| you can see {actor} {doing} {object}{place}.
{ahead}{object} is being {done} by {actor}.""")
DENIALS = frames("""
{actor} is not {doing} {object}{place}.
{object} is not being {done} by {actor}{place}.
| {actor} has stopped {doing} {object}{place}.""")
