"""The world's language: captions of scenes with paraphrases, and what a prompt asks for."""
from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tools.tiny_world.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, Scenes

NOUNS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "ball", "circle", "disc"), "square": ("square", "square", "box"), "triangle": ("triangle",),
    "star": ("star",), "ring": ("ring", "ring", "hoop")}
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"), "medium": (), "big": ("big", "large", "huge")}
_RIGHT = ("from left to right", "to the right", "from the left to the right", "towards the right")
_LEFT = ("from right to left", "to the left", "from the right to the left", "towards the left")
# Motion -> (verb in the third person, its -ing form, what may follow).
VERBS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "right": tuple((a, b, _RIGHT) for a, b in (("moves", "moving"), ("slides", "sliding"), ("glides", "gliding"),
                                               ("travels", "travelling"))),
    "left": tuple((a, b, _LEFT) for a, b in (("moves", "moving"), ("slides", "sliding"), ("glides", "gliding"),
                                             ("travels", "travelling"))),
    "up": (("rises", "rising", ("", "to the top")), ("moves", "moving", ("up", "upwards", "from bottom to top")),
           ("floats", "floating", ("up", "upwards")), ("climbs", "climbing", ("", "up"))),
    "down": (("sinks", "sinking", ("", "to the bottom")),
             ("moves", "moving", ("down", "downwards", "from top to bottom")),
             ("falls", "falling", ("", "slowly", "down")), ("descends", "descending", ("",))),
    "bounce_right": tuple((a, b, _RIGHT) for a, b in (("bounces", "bouncing"), ("hops", "hopping"))),
    "bounce_left": tuple((a, b, _LEFT) for a, b in (("bounces", "bouncing"), ("hops", "hopping"))),
    "bounce": (("bounces", "bouncing", ("", "up and down", "in place", "on the spot")),
               ("hops", "hopping", ("up and down", "in place", "on the spot"))),
    "grow": (("grows", "growing", ("", "larger")), ("gets", "getting", ("bigger", "larger")),
             ("expands", "expanding", ("",)), ("becomes", "becoming", ("bigger", "larger"))),
    "shrink": (("shrinks", "shrinking", ("",)), ("gets", "getting", ("smaller",)), ("contracts", "contracting", ("",)),
               ("becomes", "becoming", ("smaller",))),
    "spin": (("spins", "spinning", ("", "in place")), ("rotates", "rotating", ("",)), ("turns", "turning", ("around",)),
             ("twirls", "twirling", ("",))),
    "appear": (("appears", "appearing", ("", "suddenly", "out of nowhere")), ("pops", "popping", ("up", "into view")),
               ("shows", "showing", ("up",))),
    "still": (("stays", "staying", ("still", "in place")), ("stands", "standing", ("still",)),
              ("rests", "resting", ("",)), ("does not move", "not moving", ("",)))}
_PLAIN = ("on a {0} background", "over a {0} background", "on {0}", "in front of a {0} backdrop",
          "against a {0} background")
_GRADED = ("on a background fading from {0} to {1}", "over a gradient from {0} to {1}",
           "on a background that turns from {0} to {1}")
_SENTENCES = ("The background is {0}.", "The backdrop is {0}."), ("The background fades from {0} to {1}.",)
_OPENINGS = ("", "", "", "a video of ", "a clip of ", "we see ", "there is ")
MENTIONED_SIZE = 0.6   # of scenes whose size has a word
NO_BACKGROUND = 0.08


@dataclass(frozen=True)
class Request:
    """What a prompt asks for; None: it leaves that open."""

    shape: str | None = None
    colour: str | None = None
    motion: str | None = None
    size: str | None = None
    top: str | None = None
    bottom: str | None = None


def article(phrase: str) -> str:
    """``a`` or ``an`` and the phrase."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def write(rng: np.random.Generator, request: Request) -> str:
    """One caption that says what a request holds, in words that ``rng`` chooses.

    ``shape``, ``colour`` and ``motion`` must be given; size and background are left out where they are None.
    """
    assert request.shape and request.colour and request.motion
    words = [request.colour, _choose(rng, NOUNS[request.shape])]
    if request.size and ADJECTIVES[request.size]:
        words.insert(0, _choose(rng, ADJECTIVES[request.size]))
    thing = article(" ".join(words))
    options = VERBS[request.motion]
    verb, participle, tails = options[int(rng.integers(len(options)))]
    tail = _choose(rng, tails)
    opening = _choose(rng, _OPENINGS)
    doing = f"{participle if opening or rng.random() < 0.25 else verb} {tail}".strip()
    text = f"{opening}{thing} {doing}"
    if request.top:
        text = _with_background(rng, text, request.top, request.bottom or request.top)
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text if text.endswith(".") or rng.random() < 0.5 else text + "."


def _with_background(rng: np.random.Generator, text: str, top: str, bottom: str) -> str:
    graded = top != bottom
    kind = rng.random()
    if kind < 0.2:
        return f"{text}. {_choose(rng, _SENTENCES[graded])}".format(top, bottom)
    place = _choose(rng, _GRADED if graded else _PLAIN).format(top, bottom)
    return f"{place}, {text}" if kind < 0.35 else f"{text} {place}"


def describe(scenes: Scenes, index: int) -> Request:
    """Everything that one scene is."""
    grounds = list(BACKGROUNDS)
    return Request(SHAPES[scenes.shape[index]], list(COLOURS)[scenes.colour[index]], MOTIONS[scenes.motion[index]],
                   SIZES[scenes.size[index]], grounds[scenes.top[index]], grounds[scenes.bottom[index]])


def caption(rng: np.random.Generator, scenes: Scenes, index: int) -> str:
    """A caption of one scene; at times it leaves out the size or the background."""
    full = describe(scenes, index)
    changes = full.motion in ("grow", "shrink")
    size = full.size if rng.random() < MENTIONED_SIZE and not changes else None
    ground = (full.top, full.bottom) if rng.random() >= NO_BACKGROUND else (None, None)
    return write(rng, Request(full.shape, full.colour, full.motion, size, *ground))


_FILLERS = set("a an the of is it to from in on over front background backdrop video clip we see there that against "
               "and with view at every".split())


def vocabulary() -> set[str]:
    """Every word that captions are made of."""
    words = set(_FILLERS) | set(COLOURS) | set(BACKGROUNDS)
    for group in (*NOUNS.values(), *ADJECTIVES.values()):
        words.update(group)
    for options in VERBS.values():
        for verb, participle, tails in options:
            words.update(" ".join((verb, participle, *tails)).split())
    for phrase in (*_PLAIN, *_GRADED, *_SENTENCES[0], *_SENTENCES[1]):
        words.update(re.findall(r"[a-z]+", phrase.lower()))
    return words


def words_of(prompt: str) -> list[str]:
    """The words of a prompt in lower case."""
    return re.findall(r"[a-z]+", prompt.lower())


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that the world does not know, in their order."""
    known = vocabulary()
    return [word for word in dict.fromkeys(words_of(prompt)) if word not in known]


def _ground(text: str) -> tuple[str | None, str | None, str]:
    """Top and bottom colour of the background, and the text without them."""
    names = "|".join(BACKGROUNDS)
    graded = re.search(rf"(?:from|fades from|turns from) ({names}) to ({names})", text)
    if graded:
        return graded[1], graded[2], text.replace(graded[0], " ")
    plain = (re.search(rf"\b({names})\b (?:background|backdrop)", text)
             or re.search(rf"(?:background|backdrop) is ({names})", text) or re.search(rf"\bon ({names})\b", text))
    return (plain[1], plain[1], text.replace(plain[0], " ")) if plain else (None, None, text)


def understand(prompt: str) -> Request:
    """What a prompt of this language asks for; parts that it does not name are None."""
    top, bottom, rest = _ground(" ".join(words_of(prompt)))
    words = rest.split()
    nouns = {word: shape for shape, options in NOUNS.items() for word in options}
    sizes = {word: size for size, options in ADJECTIVES.items() for word in options}
    shape_at = next((i for i, word in enumerate(words) if word in nouns), None)
    before = words[:shape_at] if shape_at is not None else words
    after = " ".join(words[shape_at + 1:]) if shape_at is not None else rest
    return Request(nouns[words[shape_at]] if shape_at is not None else None,
                   next((word for word in reversed(before) if word in COLOURS), None), _motion(after),
                   next((sizes[word] for word in reversed(before) if word in sizes), None), top, bottom)


def _motion(text: str) -> str | None:
    """The motion that the words behind the shape name."""
    side = re.search(r"(?:to|towards) the (right|left)\b|from (?:the )?(?:left|right) to (?:the )?(right|left)", text)
    way = (side[1] or side[2]) if side else None
    if re.search(r"\b(bounc|hop)", text):
        return f"bounce_{way}" if way else "bounce"
    if way:
        return way
    rules = (("still", r"not mov|still|rest|stay"), ("spin", r"spin|rotat|\bturn|twirl"),
             ("appear", r"appear|\bpop|\bshow"),
             ("grow", r"grow|bigger|larger|expand"), ("shrink", r"shrink|smaller|contract"),
             ("up", r"ris(es|ing)|\bup|climb|bottom to top"), ("down", r"sink|\bdown|fall|descend|top to bottom"))
    return next((motion for motion, pattern in rules if re.search(pattern, text)), None)
